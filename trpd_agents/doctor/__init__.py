"""Is a run set up so that it can learn? Checks of models, teacher, sampler, environment and machine before it starts.

Invariant: a check measures, and changes nothing: no weights, no generators of random numbers, no run's directory.
`start` is what every training run begins with, `examine` is everything. Import from the modules: training imports
some of them, and others import what training is made of.
"""
