"""
lab/studies.py: every study, as data: what it asks, which runs answer it, and what the answer takes.
They stand in lab/of_aia.py and lab/of_systems.py before their runs are made. lab/study.py runs
them, lab/report.py has the rules. What the words of these two files mean:

An arm is one way to train, with each seed once:

  flags  of train.py
  steps  of the optimiser; --quick takes a tenth
  data   (if any) folder of its data set, in place of the toy world's
  from   (if any) the arm whose run of the same seed it starts from, at the end of its first phase
  aim    (if any) the arm, or two: "draws,sees", whose runs of the same seed AIA aims at
  stranger (if any) the arm whose run of another seed AIA aims at: of the seed before; of 0, of 1
  marks  (if any) flags of lab.assess, by which marks of what the run that it starts from draws in
         the end join its data

A study:

  question   what one wants to know
  arms       whose runs answer it; studies that share an arm share its runs
  seeds      how many: 0, 1, 2, ...
  note       (if any) what a reader of the numbers should know
  promise    (if any) {measure: (what the mean is to reach, what every seed is to reach)}
  prompts    (if any) of which each arm's first run draws a picture
  rivals     [(arm, rival)]: the arm is claimed to be better; rival "zero": than 0
  measures   {measure: the smallest difference worth having}
  tests      {name of a claim: what counts for it}: of CLAIMS, by those of the rivals and those of
             the measures that are named; "promise", all that is promised

A promise is of each arm. A measure is "benchmark/column" as in scores.json, or of our own:

  both tasks/loss           the sum of the two tasks' losses
  best/TASK                 the least validation loss of all evaluations but the last, which is of
                            other rows
  correlation/over layers   of the two tasks' curves
  spread/TASK               how much a layer's interaction differs over rows (standard deviation),
                            as a share of how much the curve differs over layers (range)
  conflict MATRIX/COLUMN    the cosine of the two tasks' gradients: of "layer N"; their "mean"; and
                            "ends - middle", of the first and last less the two in the middle

Of all but scores less is better, or is claimed.
"""
from lab import of_aia, of_systems

ARMS = of_aia.ARMS | of_systems.ARMS
CLAIMS = of_aia.CLAIMS | of_systems.CLAIMS
STUDIES = of_aia.STUDIES | of_systems.STUDIES
