"""Speed and memory, beside what a competent user runs today. ``make bench`` writes the page.

Every file here is one comparison. It checks first that both sides compute the same numbers,
then counts FLOPs and saved bytes, and only then takes time (:mod:`benchmarks._measure`).
"""
