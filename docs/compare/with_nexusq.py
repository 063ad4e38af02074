# nexusq up       in another terminal
# python with_nexusq.py
import os

import cloudpickle
import job
from customers import table

import nexusq_sdk

client = nexusq_sdk.Client(os.environ.get("NEXUSQ_URL", "http://127.0.0.1:8000"))
cloudpickle.register_pickle_by_value(job)  # what a notebook's cell defines is sent without this

customers = table()
batch = client.map(job.average, customers, max_attempts=3, backoff=1).wait()
outcomes = customers.join(batch.frame())
print(outcomes["status"].astype("str").value_counts().to_string())
print(outcomes.loc[[13, 42], ["status", "result", "attempt", "error"]].to_string())
