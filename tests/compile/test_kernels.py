"""Compiled programs are read as they are: products, bytes, loops and exchanges against counts by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from fedjax_mri.compile import hlo, kernels
from fedjax_mri.compile.kernels import Collective, Kernel, Wait

HANDMADE = """HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%sliced (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,8}
}

%written (p0: f32[100,8], p1: f32[1,8], p2: s32[]) -> f32[100,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = f32[1,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%p0, %p1, %p2, %zero)
}

%step (state: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %state = (s32[], f32[100,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %rows = f32[100,8]{1,0} get-tuple-element(%state), index=1
  %one = f32[1,8]{1,0} fusion(%rows, %i), kind=kLoop, calls=%sliced
  %kernel = f32[8,8]{1,0} constant({...})
  %product = (f32[1,8]{1,0}, s8[4194304]{0}) custom-call(%one, %kernel), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %first = f32[1,8]{1,0} get-tuple-element(%product), index=0
  %next = f32[100,8]{1,0} fusion(%rows, %first, %i), kind=kLoop, calls=%written
  ROOT %out = (s32[], f32[100,8]{1,0}) tuple(%i, %next)
}

%always (state: (s32[], f32[100,8])) -> pred[] {
  %state = (s32[], f32[100,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

%round (state: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %state = (s32[], f32[100,8]{1,0}) parameter(0)
  %trained = (s32[], f32[100,8]{1,0}) while(%state), condition=%always, body=%step, \
metadata={op_name="jit(f)/rounds/while/body/lanes/while"}
  %i = s32[] get-tuple-element(%trained), index=0
  %rows = f32[100,8]{1,0} get-tuple-element(%trained), index=1
  %sum = f32[100,8]{1,0} all-reduce(%rows), replica_groups={{0,1}}, to_apply=%add
  ROOT %out = (s32[], f32[100,8]{1,0}) tuple(%i, %sum)
}

ENTRY %main (state: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %state = (s32[], f32[100,8]{1,0}) parameter(0)
  ROOT %done = (s32[], f32[100,8]{1,0}) while(%state), condition=%always, body=%round, \
metadata={op_name="jit(f)/rounds/while"}, backend_config={"known_trip_count":{"n":"3"}}
}
"""


@pytest.fixture(scope="module")
def handmade() -> list[kernels.Event]:
    return kernels.events(hlo.parse(HANDMADE))


def test_a_slice_counts_as_the_row_that_is_read_and_written(handmade) -> None:
    found = {event.name: event for event in handmade if isinstance(event, Kernel)}
    row, index = 8 * 4, 4
    assert found["one"].bytes == row + index + row
    assert found["next"].bytes == row + index + row  # the rest of the array stays where it is


def test_a_librarys_product_is_counted_without_the_memory_it_works_in(handmade) -> None:
    (product,) = [event for event in handmade if isinstance(event, Kernel) and event.flops]
    assert product == Kernel("step", 1, "product", 2 * 8 * 8, 4 * (8 + 64 + 8), "f32", 0.0, True)


def test_loops_say_which_part_of_a_run_runs_in_them(handmade) -> None:
    assert {event.part for event in handmade if isinstance(event, Kernel)} == {"step"}
    assert [event for event in handmade if isinstance(event, Collective)] == [
        Collective("round", 1, "all-reduce", 3200.0)
    ]
    assert [event for event in handmade if isinstance(event, Wait)] == [Wait("step", 1)]


def test_tiles_and_scratch_memory_of_a_tpu_count_as_they_are_laid_out() -> None:
    types = "(f32[16,10]{1,0:T(8,128)}, bf16[16,10]{1,0:T(8,128)(2,1)S(1)}, u8[3,5]{0,1:T(4,128)(4,1)})"
    assert [array.bytes for array in hlo.arrays(types)] == [4 * 16 * 128, 0, 1 * 8 * 128]
    assert [array.payload for array in hlo.arrays(types)] == [4 * 16 * 10, 2 * 16 * 10, 3 * 5]


def compiled_flops(f, *shapes: tuple[int, ...]) -> tuple[float, float]:
    """Operations of the products of a compiled program, by our count and by XLA's, which adds a few others."""
    compiled = jax.jit(f).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()
    found = kernels.events(hlo.parse(compiled.as_text()))
    ours = sum(event.times * event.flops for event in found if isinstance(event, Kernel))
    return ours, compiled.cost_analysis()["flops"]


CONVOLUTION = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
    ("f", "shapes"),
    [
        (lambda a, b: a @ b, ((17, 33), (33, 9))),
        (partial(CONVOLUTION, window_strides=(1, 1), padding="SAME"), ((2, 9, 7, 3), (3, 3, 3, 4))),
        (partial(CONVOLUTION, window_strides=(2, 2), padding="SAME"), ((2, 9, 7, 3), (3, 3, 3, 4))),
        (
            partial(CONVOLUTION, window_strides=(1, 1), padding=[(1, 2), (0, 1)], lhs_dilation=(2, 2)),
            ((2, 5, 6, 3), (3, 3, 3, 4)),
        ),
        (
            partial(CONVOLUTION, window_strides=(1, 1), padding="SAME", feature_group_count=4),
            ((2, 6, 6, 8), (3, 3, 2, 12)),
        ),
    ],
    ids=["product", "convolution", "stride", "transposed", "groups"],
)
def test_products_are_counted_as_xla_counts_them(f, shapes) -> None:
    ours, theirs = compiled_flops(f, *shapes)
    assert ours > 0 and ours == pytest.approx(theirs, rel=0.02)


def test_the_gradient_of_a_grouped_convolution_is_counted_as_xla_counts_it() -> None:
    grouped = partial(CONVOLUTION, window_strides=(1, 1), padding="SAME", feature_group_count=4)
    ours, theirs = compiled_flops(jax.grad(lambda kernel, x: grouped(x, kernel).sum()), (3, 3, 2, 12), (2, 6, 6, 8))
    assert ours > 0 and ours == pytest.approx(theirs, rel=0.1)


def test_a_program_of_one_round_says_so() -> None:
    (exchange,) = [event for event in kernels.events(hlo.parse(ONE_ROUND), "round") if isinstance(event, Collective)]
    assert exchange == Collective("round", 1, "all-gather", 64.0)


ONE_ROUND = """HloModule jit_f

ENTRY %main (rows: f32[8]) -> f32[16] {
  %rows = f32[8]{0} parameter(0)
  %start = (f32[8]{0}, f32[16]{0}) all-gather-start(%rows), dimensions={0}
  ROOT %done = f32[16]{0} all-gather-done(%start)
}
"""
