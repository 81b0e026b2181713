"""Which device the ranks of a training take, decided without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nn_modules import in_chunks, make_rows

from dask_petuum.nn import NeuralNetClassifier
from dask_petuum.nn.devices import Place, choose_device, problem_of, sees_the_same

#: Four workers on one host, each a process that sees all four GPUs.
ALIKE = [Place(f"tcp://{n}", "host", n, 4) for n in range(4)]
#: As Dask-CUDA starts them: each has its own GPU first.
TURNED = [replace(p, visible=v) for p, v in zip(ALIKE, ("0,1", "1,0", "2,3", "3,2"), strict=True)]
#: One worker on each of two hosts.
APART = [Place("tcp://0", "one", 7, 2), Place("tcp://1", "other", 7, 2, "1,0")]


def test_a_rank_takes_the_gpu_of_its_place_on_the_host():
    assert [choose_device("cuda", n, 4) for n in range(5)] == [
        "cuda:0",
        "cuda:1",
        "cuda:2",
        "cuda:3",
        "cuda:0",
    ]
    assert choose_device("cuda", 3, 1) == "cuda"
    assert choose_device("cuda:1", 3, 4) == "cuda:1"
    assert choose_device("cpu", 3, 4) == "cpu"


def test_workers_of_dask_cuda_have_their_gpu_first():
    assert sees_the_same(ALIKE)
    assert not sees_the_same(TURNED)
    assert sees_the_same(APART)


@pytest.mark.parametrize(
    ("device", "places", "words"),
    [
        ("cuda", [Place("", "host", 1, 0)], "this process sees 0"),
        ("cuda", [ALIKE[0], replace(ALIKE[1], n_gpus=0)], "worker tcp://1 sees 0"),
        ("cuda:4", ALIKE, r"needs 5 GPU\(s\), worker tcp://0 sees 4"),
        (
            "cuda",
            [ALIKE[0], replace(ALIKE[1], process=0)],
            "tcp://0 and tcp://1 are threads of one",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(device, places, words):
    with pytest.raises(ValueError, match=words):
        raise ValueError(problem_of(device, places))


@pytest.mark.parametrize("places", [ALIKE, TURNED, APART, [ALIKE[0]] * 3])
def test_what_can_be_is_no_problem(places):
    assert problem_of("cuda", places) is None


def test_a_rank_without_the_gpu_is_named_before_any_work(client):
    model = NeuralNetClassifier(device="cuda:99", max_epochs=1)
    model.client = client
    with pytest.raises(ValueError, match=r"needs 100 GPU\(s\), worker tcp://.* sees"):
        model.fit(*in_chunks(*make_rows(), 2))
