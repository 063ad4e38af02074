# celery --app with_celery worker       in another terminal, in this folder; a Redis must run
# python with_celery.py
import os

import job
from celery import Celery, group
from customers import table

url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
app = Celery("with_celery", broker=url, backend=url)


@app.task(autoretry_for=(Exception,), max_retries=2, default_retry_delay=1)
def average(**row):
    return job.average(**row)


if __name__ == "__main__":
    customers = table()
    results = group(average.s(**row) for row in customers.to_dict("records")).apply_async()
    results.join(propagate=False)
    outcomes = customers.assign(
        status=[result.status for result in results],
        result=[result.result if result.successful() else None for result in results],
        error=[repr(result.result) if result.failed() else None for result in results],
    )
    print(outcomes["status"].value_counts().to_string())
    print(outcomes.loc[[13, 42], ["status", "result", "error"]].to_string())
