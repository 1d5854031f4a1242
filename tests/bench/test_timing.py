"""Contestants take turns, and the first turn does not count."""

from bench.timing import Spread, alternate, ratio


def test_all_take_turns_after_a_warm_up() -> None:
    order = []

    def turn(name: str, value: float) -> float:
        order.append(name)
        return value + len(order)

    measured = alternate({"a": lambda: turn("a", 0), "b": lambda: turn("b", 10)}, rounds=2)
    assert order == ["a", "b"] * 3
    assert measured == {"a": [3, 5], "b": [14, 16]}


def test_a_ratio_is_taken_round_by_round() -> None:
    assert ratio([1, 10, 6], [2, 5, 2]) == Spread(median=2, lowest=0.5, highest=3)
