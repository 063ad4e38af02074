# python with_joblib.py
import job
from customers import table
from joblib import Parallel, delayed


def attempts(row):
    for _ in range(3):
        try:
            return "finished", job.average(**row), None
        except Exception as error:
            said = repr(error)
    return "failed", None, said


customers = table()
ends = Parallel(n_jobs=2)(delayed(attempts)(row) for row in customers.to_dict("records"))
status, results, errors = zip(*ends, strict=True)
outcomes = customers.assign(status=status, result=results, error=errors)
print(outcomes["status"].value_counts().to_string())
print(outcomes.loc[[13, 42], ["status", "result", "error"]].to_string())
