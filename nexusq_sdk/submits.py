"""How a client submits work: by task type, functions by value, as an executor. The base of `Client`."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from nexusq_sdk.batch import Batch
from nexusq_sdk.connection import Connection
from nexusq_sdk.executor import TaskExecutor
from nexusq_sdk.functions import ALONG, Executor, encode_call, encode_calls, send_function
from nexusq_sdk.naming import Inputs, call_inputs, send_named
from nexusq_sdk.options import SubmitOptions, to_wire
from nexusq_sdk.protocol.wire import TaskView
from nexusq_sdk.rows import encode_payload, encode_rows, index_of
from nexusq_sdk.sending import send_batch, send_task, type_field
from nexusq_sdk.task_handle import Task

if TYPE_CHECKING:
    import pandas as pd


class Submits:
    """What submits: a connection, and the options that every submit has unless it says otherwise."""

    _connection: Connection
    _options: SubmitOptions

    def options(self, **options: Unpack[SubmitOptions]) -> Self:
        """Give a view of this client whose submits have these options; it shares the connection.

        Examples
        --------
        >>> client.options(priority="high", timeout=60).submit(train, alpha=0.1)  # doctest: +SKIP
        """
        to_wire(options)
        view = copy.copy(self)
        view._options = {**self._options, **options}
        return view

    @overload
    def submit(self, task_type: str, payload: Any, **options: Unpack[SubmitOptions]) -> Task: ...
    @overload
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task: ...
    def submit(self, *given: Any, **named: Any) -> Task:
        """Submit one task: of a task type, ``submit("EMAIL_SEND", payload)``, or a function's call, ``submit(fn, 1)``.

        A function is sent by value, signed with the cluster's key, and runs in a process of its own there, whatever
        its module; its arguments stand behind it, so that its options are said by `options`.

        Parameters
        ----------
        task_type : str
            What is to be done, such as ``"EMAIL_SEND"``.
        payload : dict, or anything with a JSON form
            What its handler is given. What becomes of each value: `nexusq_sdk.values`.
        function, *args, **kwargs
            What is to be called, and with what: anything that can be pickled. `Task.result` is what it returns.
        **options
            ``queue``, ``priority``, ``delay``, ``eta``, ``max_attempts``, ``backoff``, ``timeout``, ``result_ttl``,
            ``idempotency_key``, ``allow_unknown``: see `nexusq_sdk.options.SubmitOptions`.

        Returns
        -------
        Task
            It is safe from now on: it will run whatever is killed.

        Raises
        ------
        Refused
            If the payload does not fit the handler, or the type is unknown (`UnknownTaskType`).
        RowError
            If the payload has no JSON form.
        NotPicklable
            If the function or an argument can't be pickled or is too large.
        FunctionsOff, WrongKey
            If there is no signing key, or not the server's.
        ConnectionFailed, ServerUnavailable

        Examples
        --------
        >>> client.submit(pow, 2, 10).result()  # doctest: +SKIP
        1024
        """
        if given and callable(given[0]):
            function = send_function(self._connection, given[0], along=ALONG)
            payload = encode_call(self._connection, function, given[1:], named)
            return self._handle(send_task(self._connection, function.task_type, payload, to_wire(self._options)))
        return self._submit_task(*given, **named)

    def map(
        self,
        function: Callable[..., Any],
        rows: pd.DataFrame | Iterable[Any],
        *,
        executor: Executor = "process",
        name: str | None = None,
        new: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Batch:
        """Call a function for each row on the workers: ``function(**row)`` for a DataFrame, else ``function(item)``.

        The function is sent once, by value: one that was defined in a cell will do. What it refers to comes along,
        except for what is imported: packages, which the workers must have in the same major version, with the same
        Python, and modules of one's own, which come along after ``cloudpickle.register_pickle_by_value(module)``.
        Values of a row are anything that can be pickled. A worker's process keeps the function
        for its next calls: what it puts into its globals, such as a model that is loaded once, is there again.

        Parameters
        ----------
        rows : DataFrame, or iterable of values
            As for `submit_batch`, rows are sent in chunks as they are read.
        executor : {"process", "thread"}
            Where a worker runs it: a process for what keeps a CPU busy, a thread for what waits.
        name, new
            As for `submit_batch`: the same function (with what it refers to) over the same rows is submitted once.

        The options and what is raised are those of `submit`.

        Returns
        -------
        Batch
            `Batch.results` and `Batch.frame` give what was returned, the very objects.

        Examples
        --------
        >>> def area(width, height):
        ...     return width * height
        >>> client.map(area, pd.DataFrame({"width": [1, 2], "height": [3, 4]})).results()  # doctest: +SKIP
        """
        sent = send_function(self._connection, function, executor)
        payloads = encode_calls(self._connection, sent, rows)
        if name is None:
            return self._send(sent.task_type, payloads, index_of(rows), options, None, new)
        inputs = call_inputs(function, sent.task_type, self._connection.signing_key)
        return self._send(sent.task_type, payloads, index_of(rows), options, name, new, inputs)

    def executor(
        self, max_workers: int | None = None, *, executor: Executor = "process", **options: Unpack[SubmitOptions]
    ) -> TaskExecutor:
        """Give a `concurrent.futures.Executor` whose calls run on the workers.

        Parameters
        ----------
        max_workers : int, optional
            How many of its calls may be with the workers at once; otherwise all are handed over at once, and the
            workers run as many as they have places for.
        executor : {"process", "thread"}
            Where a worker runs them.

        The options are those of `submit`, without ``idempotency_key``.

        Examples
        --------
        >>> with client.executor() as pool:  # doctest: +SKIP
        ...     futures = [pool.submit(pow, 2, n) for n in range(10)]
        ...     [future.result() for future in concurrent.futures.as_completed(futures)]
        """
        return TaskExecutor(self._connection, to_wire({**self._options, **options}), max_workers, executor)

    def joblib(
        self, *, executor: Executor = "process", **options: Unpack[SubmitOptions]
    ) -> AbstractContextManager[Any]:
        """Have joblib, and with it scikit-learn, run on the workers within a ``with`` block.

        Needs joblib. ``joblib.parallel_config("nexusq", client=client)`` does the same, once
        ``import nexusq_sdk.joblib_backend`` has registered it.

        Examples
        --------
        >>> with client.joblib():  # doctest: +SKIP
        ...     GridSearchCV(model, grid, n_jobs=-1).fit(X, y)
        """
        # By its name: it stands above the client, and only those who have joblib have a use for it.
        backend = importlib.import_module("nexusq_sdk.joblib_backend")
        chosen: AbstractContextManager[Any] = backend.parallel_on(self, executor=executor, **self._options, **options)
        return chosen

    def _submit_task(self, task_type: str, payload: Any, **options: Unpack[SubmitOptions]) -> Task:
        said = to_wire({**self._options, **options})
        type_field(task_type)
        return self._handle(send_task(self._connection, task_type, encode_payload(payload), said))

    def submit_batch(
        self,
        task_type: str,
        rows: pd.DataFrame | Iterable[Any],
        *,
        name: str | None = None,
        new: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Batch:
        """Submit a task for each row.

        Rows are sent in chunks as they are read: memory stays constant, whatever an iterable gives. A DataFrame is
        checked whole before its first row is sent.

        Parameters
        ----------
        rows : DataFrame, or iterable of payloads
            A row of a DataFrame becomes an object with its columns as fields; an item of an iterable is a payload as
            it is. What becomes of each value: `nexusq_sdk.values`.
        name : str, optional
            A name such as ``"exp-7"``. Running this again with the same name and inputs (task type, queue and rows)
            gives the batch that is there, from any kernel, and submits nothing twice. `Client.batch` finds it by
            its name. The name goes when the batch is forgotten.
        new : bool
            Begin another batch under the name, whatever has it.

        The other parameters, and what is raised, are those of `submit`; moreover:

        Returns
        -------
        Batch
            All its tasks are safe from now on.

        Raises
        ------
        RowError
            If a value has no JSON form: row and column are named. Of a DataFrame nothing was submitted then. Of an
            iterable, rows before it may have been: the error's note says how many, and in which batch.
        NameTaken
            If the batch of this name has other inputs. Nothing was submitted then.

        Examples
        --------
        >>> client.submit_batch("RESIZE_IMAGE", images, name="exp-7").wait()  # doctest: +SKIP
        >>> client.batch("exp-7").frame()  # in another kernel, days later  # doctest: +SKIP
        """
        type_field(task_type)
        return self._send(task_type, encode_rows(rows), index_of(rows), options, name, new)

    def _send(
        self,
        task_type: str,
        payloads: Iterator[bytes],
        index: pd.Index[Any] | None,
        options: SubmitOptions,
        name: str | None,
        new: bool,
        inputs: Inputs | None = None,
    ) -> Batch:
        said = to_wire({**self._options, **options})
        if name is not None:
            submitted = send_named(self._connection, task_type, payloads, said, name, new=new, inputs=inputs)
        elif new:
            raise ValueError("expected new=True together with a name, got no name: any other batch is new")
        else:
            submitted = send_batch(self._connection, task_type, payloads, said)
        return Batch(submitted.batch_id, self._connection, index=index, submitted=submitted, options=said)

    def _handle(self, submitted: TaskView) -> Task:
        # A key may stand for a task that has ended: the answer says that, but not with what.
        return Task(submitted.task_id, self._connection, None if submitted.status.terminal else submitted)
