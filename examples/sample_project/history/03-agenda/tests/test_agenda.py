import unittest

from spans import agenda
from spans.span import Span

STAND_UP = Span(540, 555)
PLANNING = Span(550, 610)
LUNCH = Span(720, 780)


class AgendaTest(unittest.TestCase):
    def test_total_minutes_counts_a_shared_minute_twice(self):
        self.assertEqual(agenda.total_minutes([STAND_UP, PLANNING]), 75)

    def test_conflicts_come_as_ordered_pairs(self):
        self.assertEqual(agenda.conflicts([LUNCH, PLANNING, STAND_UP]), [(STAND_UP, PLANNING)])

    def test_outer(self):
        self.assertEqual(agenda.outer([LUNCH, STAND_UP]), Span(540, 780))

    def test_outer_of_nothing(self):
        with self.assertRaises(ValueError):
            agenda.outer([])
