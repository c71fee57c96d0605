import unittest

from spans.span import Span


class SpanTest(unittest.TestCase):
    def test_minutes(self):
        self.assertEqual(Span(540, 600).minutes, 60)

    def test_must_end_after_it_starts(self):
        with self.assertRaises(ValueError):
            Span(600, 540)
        with self.assertRaises(ValueError):
            Span(600, 600)

    def test_contains_its_start_and_not_its_end(self):
        self.assertTrue(Span(540, 600).contains(540))
        self.assertFalse(Span(540, 600).contains(600))

    def test_overlap_needs_a_shared_minute(self):
        self.assertTrue(Span(540, 600).overlaps(Span(570, 630)))
        self.assertFalse(Span(540, 600).overlaps(Span(600, 630)))

    def test_shift(self):
        self.assertEqual(Span(540, 600).shift(-30), Span(510, 570))

    def test_order_is_by_start_then_end(self):
        self.assertLess(Span(540, 600), Span(540, 630))


if __name__ == "__main__":
    unittest.main()
