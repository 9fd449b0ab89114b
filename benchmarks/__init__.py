"""Measurements, each beside what a user would pick instead, in the same run. Never imported by the product."""
