"""Say what may be lost; the rest is chosen.

candidates.py  which recipes and learning rates are tried, by name from the registry
prepare.py     everything that can be checked and said before anything trains
trials.py      short runs by successive halving, and points between them and the base
confirm.py     which of them may be promised, on examples that the search did not see
bound.py       how much may have been lost at most
search.py      one after the other, resumable
result.py      what was found
advise.py      what to do in a situation, without the training
"""
