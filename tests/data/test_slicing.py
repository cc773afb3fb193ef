from scse.data.slicing import spread


def test_every_beginning_of_a_spread_is_even():
    assert spread(9) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert [spread(count) for count in (0, 1, 2)] == [[], [0], [0, 1]]
    assert all(sorted(spread(count)) == list(range(count)) for count in range(100))
