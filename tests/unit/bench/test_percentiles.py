import pytest

from bench.percentiles import percentile


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (1, 1.0), (50, 5.0), (51, 6.0), (95, 10.0), (99, 10.0), (100, 10.0)]
)
def test_a_percentile_is_the_measured_value_of_nearest_rank(percent: float, expected: float):
    assert percentile([float(n) for n in range(1, 11)], percent) == expected


def test_one_value_is_every_percentile():
    assert {percentile([7.0], percent) for percent in (0, 50, 100)} == {7.0}


def test_no_values_have_no_percentile():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
