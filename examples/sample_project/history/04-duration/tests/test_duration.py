import unittest

from spans.clock import format_duration


class FormatDurationTest(unittest.TestCase):
    def test_under_an_hour_only_minutes_show(self):
        self.assertEqual(format_duration(45), "45m")

    def test_whole_hours_show_no_minutes(self):
        self.assertEqual(format_duration(60), "1h")
        self.assertEqual(format_duration(120), "2h")

    def test_hours_and_minutes(self):
        self.assertEqual(format_duration(90), "1h 30m")
        self.assertEqual(format_duration(605), "10h 5m")

    def test_nothing_lasts_no_minutes(self):
        self.assertEqual(format_duration(0), "0m")

    def test_a_negative_duration_is_refused(self):
        with self.assertRaises(ValueError):
            format_duration(-1)
