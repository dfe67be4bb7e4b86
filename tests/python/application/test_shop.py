"""The application's own tests, as applications have them: without a worker."""

import pytest
import shop


def test_tasks_are_functions():
    assert shop.add(2, 3) == 5
    with pytest.raises(ZeroDivisionError):
        shop.divide(1, 0)


def test_eagerly_too():
    assert shop.add.apply((2, 3)).get() == 5
    assert shop.order.apply(("tea",)).get() == "tea after 2 retries"
