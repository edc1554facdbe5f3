"""Scoring past one machine, on Ray Data: the command mnist-score, extra [ray].

Nothing else in `mnist_runtime` imports this package, and nothing else imports Ray or PyArrow.
"""
