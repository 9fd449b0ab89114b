"""The OpenAPI document: schemathesis reads it, sends what it allows and what it forbids, and finds no 5xx."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.support.datasets import small_dataset
from tests.support.http import get
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess

EXAMPLES = 15
"""For each operation: enough to meet every kind of nonsense, few enough to take seconds."""

BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A small dataset whose epochs are short."""
    config = small_dataset(tmp_path_factory.mktemp("openapi"), samples=8, shards=1, server={"workers": 1})
    with ServerProcess(config) as server:
        yield server


def test_the_document_describes_every_data_route(described: ServerProcess) -> None:
    """All routes of the design's table, their errors, and that a stream is msgpack."""
    paths = get(described.url + "/openapi.json").json["paths"]
    named = (
        "",
        "/{name}",
        "/{name}/stream",
        "/{name}/batches/{epoch}/{step}/{micro}",
        "/{name}/plan",
        "/{name}/quarantine",
    )
    assert {f"/v1/datasets{path}" for path in named} | {"/health", "/livez", "/readyz", "/metrics"} <= set(paths)
    answers = paths["/v1/datasets/{name}/stream"]["get"]["responses"]
    assert {"200", "404", "409", "422", "426", "429", "503"} <= set(answers)
    assert list(answers["200"]["content"]) == ["application/x-msgpack"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_a_servers_error(described: ServerProcess, mode: GenerationMode) -> None:
    """Requests that fit the document and requests that break it; half of them ask for the dataset that exists."""
    schema = schemathesis.openapi.from_url(described.url + "/openapi.json")
    statuses: Counter[int] = Counter()
    for result in schema.get_all_operations():
        send_examples(result.ok(), mode, statuses)
    assert sum(statuses.values()) >= EXAMPLES * 5
    assert {200, 404, 422} <= set(statuses)
    assert get(described.url + "/health").json["status"] == "ok"
    assert "Traceback" not in described.log.read_text()


def send_examples(operation: schemathesis.APIOperation, mode: GenerationMode, statuses: Counter[int]) -> None:
    """Some requests for one operation, each answered without a 5xx."""
    numbers = itertools.count()

    @BOUNDED
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        if "name" in case.path_parameters and next(numbers) % 2:
            case.path_parameters["name"] = "train"
        if "epochs" in case.query:
            case.query["epochs"] = 1  # the only number that makes an answer long
        answer = case.call(timeout=PATIENCE_S)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=[not_a_server_error])

    with contextlib.suppress(Unsatisfiable):  # an operation without parameters cannot be asked wrongly
        send()
