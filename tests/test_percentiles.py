from mlserve.percentiles import Percentiles


def test_percentiles_lie_between_the_values() -> None:
    assert Percentiles.from_values(range(101)) == Percentiles(50.0, 95.0, 99.0)
    assert Percentiles.from_values([2.0, 1.0]) == Percentiles(1.5, 1.95, 1.99)
    assert Percentiles.from_values([]) is None
