"""What the tests put in the place of jaxtyping's decorator checks the same."""

import dataclasses
import gc
import threading
import weakref

import jaxtyping
import pytest
import shape_checks
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.kernels import sparse_decode
from sae_lens_ext.sae import SAE

WRONG = (jaxtyping.TypeCheckError, BeartypeCallHintViolation)
DECORATORS = {
    "jaxtyping's": shape_checks.ORIGINAL(typechecker=beartype),
    "ours": shape_checks.checked,
}
ROWS = torch.zeros(2, 3)


def _outermost(x: Float[Tensor, "row n"], y: Float[Tensor, " n"], k: int = 1) -> float:
    return float(k) if k else k


def _generator(n: int) -> list[int]:
    yield n


def _inside(decorator, result=1.0):
    @decorator
    def inside(x: Float[Tensor, "row n"], y: Float[Tensor, " n"], k: int = 1) -> float:
        return result if k else k

    return inside


@pytest.fixture(params=["outermost", "inside", "inside again"])
def function(request):
    def of(decorator):
        if request.param == "outermost":
            return decorator(_outermost)
        functions = [_inside(decorator) for _ in range(2)]
        return functions[request.param == "inside again"]

    return of


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((ROWS, torch.zeros(2)), {}),
        ((ROWS[0], ROWS[0]), {}),
        ((ROWS.long(), ROWS[0]), {}),
        ((ROWS, ROWS[0], "1"), {}),
        ((ROWS,), {"y": ROWS[0], "k": None}),
        # An integer is returned.
        ((ROWS, ROWS[0], 0), {}),
    ],
)
def test_a_wrong_call_is_an_error(function, decorator, arguments, options):
    checked = function(DECORATORS[decorator])
    assert checked(ROWS, torch.zeros(3)) == 1
    with pytest.raises(WRONG):
        checked(*arguments, **options)
    assert checked(ROWS, torch.zeros(3)) == 1


@pytest.mark.parametrize("decorator", DECORATORS)
def test_the_result_of_a_generator_is_checked(decorator):
    checked = DECORATORS[decorator](_generator)
    with pytest.raises(WRONG):
        checked(1)


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("arguments", [(ROWS, ROWS[0, :2]), (ROWS, [0, 0, 0])])
def test_a_wrong_value_for_a_dataclass_is_an_error(decorator, arguments):
    @DECORATORS[decorator]
    @dataclasses.dataclass
    class Pair:
        x: Float[Tensor, "row n"]
        y: Float[Tensor, " n"]

    @DECORATORS[decorator]
    class Child(Pair):
        pass

    for kind in (Pair, Child):
        assert kind(ROWS, ROWS[0]).x is ROWS
        with pytest.raises(WRONG):
            kind(*arguments)
    assert Child.__init__ is Pair.__init__


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("decorator", DECORATORS)
def test_checks_can_be_switched_off(function, decorator):
    assert function(DECORATORS[decorator])(None, None, 0) == 0


def test_the_functions_of_one_definition_are_not_mixed_up():
    functions = [_inside(shape_checks.checked, result) for result in (1.0, 2.0, 3.0)]

    def results():
        return [function(ROWS, ROWS[0]) for function in functions]

    assert results() == [1, 2, 3]
    in_thread = []
    thread = threading.Thread(target=lambda: in_thread.extend(results()))
    thread.start()
    thread.join()
    assert in_thread == [1, 2, 3]


def test_annotations_may_depend_on_where_a_function_is_defined():
    def taking(kind):
        @shape_checks.checked
        def take(x: kind):
            return x

        return take

    assert taking(int)(1) == 1
    assert taking(str)("1") == "1"
    with pytest.raises(WRONG):
        taking(int)("1")


def test_a_function_may_call_itself_and_others_of_its_definition():
    def with_next(following, name):
        @shape_checks.checked
        def call(depth: int) -> str:
            if not depth:
                return name
            return name + call(depth - 1) + following(depth - 1)

        return call

    last = with_next(lambda _: "", "b")
    assert with_next(last, "a")(2) == "aaabbb"


def test_the_first_function_of_a_definition_is_not_kept():
    class Kept(float):
        """A number with weak references."""

    value = Kept(1)
    reference = weakref.ref(value)
    checked = _inside(shape_checks.checked, value)
    assert checked(ROWS, ROWS[0]) == 1

    del checked, value
    gc.collect()
    assert reference() is None


def test_the_package_is_checked():
    with pytest.raises(WRONG):
        sparse_decode(ROWS, ROWS, ROWS)
    with pytest.raises(WRONG):
        SAE.from_pretrained(1)
