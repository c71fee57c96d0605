import unittest

from spans.clock import format_span, format_time, parse_span, parse_time
from spans.span import Span


class ClockTest(unittest.TestCase):
    def test_parse_time(self):
        self.assertEqual(parse_time("9:05"), 545)
        self.assertEqual(parse_time(" 00:00 "), 0)

    def test_parse_time_refuses_what_is_no_time(self):
        for text in ("", "9", "9:5", "nine", "25:00", "9:75"):
            with self.subTest(text=text), self.assertRaises(ValueError):
                parse_time(text)

    def test_parse_span(self):
        self.assertEqual(parse_span("9:00-10:30"), Span(540, 630))

    def test_format(self):
        self.assertEqual(format_time(545), "9:05")
        self.assertEqual(format_span(Span(540, 630)), "9:00-10:30")
