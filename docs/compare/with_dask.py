# python with_dask.py
import job
from customers import table
from dask.distributed import Client, LocalCluster, wait


def main():
    customers = table()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        futures = [client.submit(job.average, **row, retries=2, pure=False) for row in customers.to_dict("records")]
        wait(futures)
        outcomes = customers.assign(
            status=[future.status for future in futures],
            result=[future.result() if future.status == "finished" else None for future in futures],
            error=[repr(future.exception()) if future.status == "error" else None for future in futures],
        )
    print(outcomes["status"].value_counts().to_string())
    print(outcomes.loc[[13, 42], ["status", "result", "error"]].to_string())


if __name__ == "__main__":
    main()
