# rq worker --url $REDIS_URL       in another terminal, in this folder; a Redis must run
# python with_rq.py
import os
import time

import job
from customers import table
from redis import Redis
from rq import Queue, Retry

queue = Queue(connection=Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")))

customers = table()
jobs = queue.enqueue_many(
    [Queue.prepare_data(job.average, kwargs=row, retry=Retry(max=2)) for row in customers.to_dict("records")]
)
while not all(one.get_status() in {"finished", "failed"} for one in jobs):
    time.sleep(0.5)
ends = [one.latest_result() for one in jobs]
outcomes = customers.assign(
    status=[end.type.name for end in ends],
    result=[end.return_value for end in ends],
    error=[end.exc_string and end.exc_string.strip().splitlines()[-1] for end in ends],
)
print(outcomes["status"].value_counts().to_string())
print(outcomes.loc[[13, 42], ["status", "result", "error"]].to_string())
