"""
lab/studies.py: every study, as data: what it asks, which runs answer it, and what the answer takes.
It stands here before the runs are made. lab/study.py runs them, lab/report.py has the rules.

An arm is one way to train, with each seed once:

  flags  of train.py
  steps  of the optimiser; --quick takes a tenth
  from   (if any) the arm whose run of the same seed it starts from, at the end of its first phase
  aim    (if any) the arm, or two: "draws,sees", whose runs of the same seed AIA aims at

A study:

  question   what one wants to know
  arms       whose runs answer it; studies that share an arm share its runs
  seeds      how many: 0, 1, 2, ...
  promise    (if any) {measure: (what the mean is to reach, what every seed is to reach)}
  note       (if any) what a reader of the numbers should know
  claim      (if any) what a paper says, and where; with it
  rivals     [(arm, rival)]: the arm is claimed to be better; rival "zero": than nothing at all
  measures   {measure: the smallest difference worth having}

A promise is of the first arm. A measure is "benchmark/column" as in scores.json, or one of
"best/TASK", the least validation loss at any evaluation; "correlation/over layers", of the two
tasks' curves; "spread/TASK", the standard deviation of a layer's interaction over rows; "conflict
MATRIX/layer N", the cosine of the two tasks' gradients. Of all but scores less is better, or is
claimed.
"""

from lab.conflict import MATRICES
from model import PRESETS, SIZES

PULLED = "--aia 1 --aia_every 1 --exam 30"
SHORT = "--stages off --exam 30"
SEE = "--task understand --batch_size 22 --see patches --exam 30"
UTAMOE = "--arch utamoe --exam 30"

ARMS = {
    "main": {"flags": "--aia 0.1", "steps": 5500},
    "without": {"flags": "", "steps": 2200, "from": "main"},  # its second phase, without AIA
    "every": {"flags": "--aia 0.1 --aia_every 1", "steps": 2200, "from": "main"},
    # one task alone, with as many rows of it
    "draws": {"flags": "--task generate --batch_size 10", "steps": 5500},
    "sees": {"flags": "--task understand --batch_size 22", "steps": 5500},
    # a weak network, and what may pull it while it trains on; the paper pulls on every step
    "weak": {"flags": "--exam 30", "steps": 1000},
    "weak-small": {"flags": f"{PULLED} --reference small", "steps": 400, "from": "weak"},
    "weak-paper": {"flags": f"{PULLED} --reference paper", "steps": 400, "from": "weak"},
    "weak-own": {"flags": f"{PULLED} --reference own", "steps": 400, "from": "weak"},
    "weak-swapped": {"flags": f"{PULLED} --control swapped", "steps": 400, "from": "weak"},
    "weak-constant": {"flags": f"{PULLED} --control constant", "steps": 400, "from": "weak"},
    # the same at what it could become: the main job's network, which began with the same weights
    "weak-main": {"flags": PULLED, "steps": 400, "from": "weak", "aim": "main"},
    "weak-heads": {"flags": f"{PULLED} --heads 4", "steps": 400, "from": "weak", "aim": "main"},
    "weak-maps": {"flags": f"{PULLED} --maps", "steps": 400, "from": "weak", "aim": "main"},
    # the same where the rows are few, so that it learns them by heart
    "few": {"flags": "--exam 30 --n_train 500", "steps": 400, "from": "weak"},
    "few-small": {"flags": f"{PULLED} --n_train 500 --reference small", "steps": 400,
                  "from": "weak"},
    "few-paper": {"flags": f"{PULLED} --n_train 500 --reference paper", "steps": 400,
                  "from": "weak"},
    "few-own": {"flags": f"{PULLED} --n_train 500 --reference own", "steps": 400, "from": "weak"},
    # every way to take the network apart, in a tenth of the main job
    **{arch: {"flags": f"--arch {arch} {SHORT}", "steps": 550} for arch in PRESETS},
    "emu3-aia": {"flags": "--aia 0.1 --exam 30", "steps": 220, "from": "emu3"},
    # seeing alone, from patches of pixels, and what exists in copies by modality
    "see": {"flags": SEE, "steps": 550},
    "see-norm": {"flags": f"{SEE} --split norm --route modality", "steps": 550},
    "see-ffn": {"flags": f"{SEE} --split ffn --route modality", "steps": 550},
    "see-all": {"flags": f"{SEE} --split norm,qkv,ffn --route modality", "steps": 550},
    # UTAMoE in its two stages from a unified network, and what its parts are worth
    "two-stages": {"flags": UTAMOE, "steps": 220, "from": "emu3"},
    "label": {"flags": f"{UTAMOE} --route oracle", "steps": 220, "from": "emu3"},
    "not-shared": {"flags": f"{UTAMOE} --no-shared", "steps": 220, "from": "emu3"},
    "one-stage": {"flags": f"{UTAMOE} --stages off", "steps": 220, "from": "emu3"},
}

OTHERS = [arch for arch in PRESETS if arch != "emu3"]  # emu3 shares all weights
KINDS = ("existence", "count", "color", "shape", "place", "position", "describe")

# no distances: each arm's is to its own target
OF_WEAK = {
    "loss/understand": .005, "loss/generate": .002, "summary/toy-GenEval": .02,
    "summary/toy-POPE F1": .03, "summary/toy-MME": 30, "summary/answered": .02,
}

STUDIES = {
    "scores": {
        "question": "Does the main job learn every skill, whatever the seed?",
        "arms": ["main"],
        "seeds": 5,
        "note": "The recipe was chosen with seeds 0 to 2 (skills.md); seeds 3 and 4 are fresh.",
        "promise": {
            "summary/toy-GenEval": (.90, .87),
            "summary/answered": (.97, .97),
            **{f"answered/{kind}": (.90, .90) for kind in KINDS},
            "summary/toy-MME": (950, 950),
            "summary/toy-MMVP": (.95, .95),
            "toy-GenEval/held-out": (.50, .50),
        },
    },
    "aia": {
        "question": "Does AIA move the curves, and does it help?",
        "arms": ["main", "without"],
        "seeds": 5,
        "claim": "AIA brings the curves of a network that does both tasks to those of single-task "
                 "networks, and improves both tasks (arXiv 2511.22663, figure 5 and table 2). What "
                 "counts of the first are the distances, of the second toy-GenEval and answered.",
        "rivals": [("main", "without")],
        "measures": {
            "distance/generate": .01, "distance/understand": .01,
            "loss/generate": .002, "loss/understand": .002,
            "summary/toy-GenEval": .01, "summary/toy-POPE F1": .005, "summary/toy-MME": 10,
            "summary/toy-MMVP": .02, "summary/answered": .01, "toy-GenEval/held-out": .02,
        },
    },
    "every": {
        "question": "Is AIA on every fourth step, four times as strong, as good as on every step?",
        "arms": ["main", "every"],
        "seeds": 3,
        "claim": "Every step is better. What counts are the distances: if they refute it the "
                 "default, every fourth, is right.",
        "rivals": [("every", "main")],
        "measures": {
            "distance/generate": .005, "distance/understand": .005, "loss/generate": .002,
            "loss/understand": .005, "summary/toy-GenEval": .01, "summary/answered": .01,
        },
    },
    "apart": {
        "question": "What does it bring to take the network apart?",
        "arms": ["emu3", "emu3-aia", *OTHERS],
        "seeds": 3,
        "note": "All train jointly and from nothing, the encoders too; the papers' start from "
                "trained networks, in stages.",
        "claim": "Every way of decoupling brings the curves nearer to those of single-task "
                 "networks, and improves both tasks (arXiv 2511.22663, figure 1 and table 2). What "
                 "counts are the distances and the losses.",
        "rivals": [(arm, "emu3") for arm in ("emu3-aia", *OTHERS)],
        "measures": {
            "distance/generate": .01, "distance/understand": .01, "loss/generate": .005,
            "loss/understand": .02, "summary/toy-GenEval": .02, "summary/answered": .02,
        },
    },
    "ladder": {
        "question": "Which weights should a network that only sees copy by modality?",
        "arms": ["see", "see-norm", "see-ffn", "see-all"],
        "seeds": 3,
        "claim": "All of them: with copies of norms alone it sees worse (EVEv2, arXiv 2502.06788, "
                 "section 4.3). What counts is the loss.",
        "rivals": [("see-all", "see"), ("see-all", "see-norm"), ("see-all", "see-ffn")],
        "measures": {"loss/understand": .01, "summary/answered": .02, "summary/toy-MMVP": .05},
    },
    "router": {
        "question": "What are the parts of UTAMoE worth?",
        "arms": ["two-stages", "label", "not-shared", "one-stage"],
        "seeds": 3,
        "note": "Its new encoder, embedding and head start from nothing here, and wait in the "
                "first stage; the paper's come from a trained Janus-Pro.",
        "claim": "A router that learns the task, a shared expert and two stages are each better "
                 "than without (UTAMoE). What counts are the losses.",
        "rivals": [("two-stages", "label"), ("two-stages", "not-shared"),
                   ("two-stages", "one-stage")],
        "measures": {"loss/generate": .005, "loss/understand": .01, "summary/toy-GenEval": .02,
                     "summary/answered": .02},
    },
    "opposed": {
        "question": "Do the two tasks' curves run against each other?",
        "arms": ["without", "emu3", *OTHERS],
        "seeds": 3,
        "claim": "In every architecture they are negatively correlated over the layers (arXiv "
                 "2511.22663, figure 1). Six layers are few.",
        "rivals": [(arm, "zero") for arm in ("without", "emu3", *OTHERS)],
        "measures": {"correlation/over layers": .1},
    },
    "spread": {
        "question": "Do the curves hang on what goes in?",
        "arms": ["without"],
        "seeds": 5,
        "note": "The paper's table 1 has 0.13 for Emu3 and 0.02 to 0.1 for others, over samples of "
                "several types and lengths; its reading is that they hardly do. Here it is of the "
                "mean over layers, over 100 rows.",
        "promise": {"spread/generate": (.13, .13), "spread/understand": (.13, .13)},
    },
    "conflict": {
        "question": "Do the two tasks' gradients pull the same weights in opposite directions?",
        "arms": ["weak", "main"],
        "seeds": 5,
        "note": "Measured where a run's second phase begins: at step 600 of weak, 3,300 of main. "
                "In another system they were found to be near-orthogonal, and 11 to 14 times apart "
                "in norm (arXiv 2603.17044).",
        "claim": "They do, and in the shallow and deep layers more than in those between (Uni-X, "
                 "arXiv 2509.24365). What counts are the cosines of the network that has learned "
                 "most, main; a conflict worth the name is -0.1.",
        "rivals": [("main", "zero"), ("weak", "zero")],
        "measures": {f"conflict {matrix}/layer {layer}": .1
                     for matrix in MATRICES for layer in range(SIZES["nano"][0])},
    },
    "synergy": {
        "question": "Does each task gain from the other?",
        "arms": ["without", "draws", "sees"],
        "seeds": 5,
        "claim": "A network that trains on both tasks does each better than one that trains on it "
                 "alone (arXiv 2511.22663 of drawing, with AIA). Here it has as many rows of it "
                 "in as many steps, without AIA. What counts are the losses.",
        "rivals": [("without", "draws"), ("without", "sees")],
        "measures": {
            "loss/generate": .002, "loss/understand": .005, "summary/toy-GenEval": .01,
            "summary/toy-POPE F1": .005, "summary/toy-MME": 10, "summary/toy-MMVP": .02,
            "summary/answered": .01, "toy-GenEval/held-out": .02,
        },
    },
    "headroom": {
        "question": "How much is there to gain from another network's attention?",
        "arms": ["weak", "weak-main", "weak-heads", "weak-maps"],
        "seeds": 5,
        "claim": "A weak network that is made to attend as one that has learned both tasks gains "
                 "in both. It may be held to that one's whole maps, to each head's interaction, or "
                 "to each layer's. What counts are the losses.",
        "rivals": [("weak-maps", "weak"), ("weak-heads", "weak"), ("weak-main", "weak")],
        "measures": OF_WEAK,
    },
    "weak": {
        "question": "Does AIA help a weak network that trains on, and does its target matter?",
        "arms": ["weak", "weak-small", "weak-paper", "weak-own", "weak-swapped", "weak-constant"],
        "seeds": 8,
        "claim": "On a weak base AIA improves both tasks (arXiv 2511.22663, table 2: Emu3), so "
                 "single-task targets beat none. That they also beat their controls, which are the "
                 "network's own curves, the other task's and a constant, nobody has claimed. If "
                 "AIA helps, and it is refuted that it helps more than they do, what helps is "
                 "restraint. What counts is the loss to understand.",
        "rivals": [("weak-small", "weak"), ("weak-paper", "weak"), ("weak-small", "weak-own"),
                   ("weak-small", "weak-swapped"), ("weak-small", "weak-constant")],
        "measures": OF_WEAK,
    },
    "few": {
        "question": "Does AIA help a weak network that trains on with few rows?",
        "arms": ["few", "few-small", "few-paper", "few-own"],
        "seeds": 8,
        "claim": "Where rows are few and are learned by heart, a target keeps the network from it. "
                 "Whoever stops in time does so, too: hence best, the least validation loss at any "
                 "evaluation. What counts is best: understand.",
        "rivals": [("few-small", "few"), ("few-paper", "few"), ("few-paper", "few-own")],
        "measures": {"best/understand": .005, "best/generate": .002} | OF_WEAK,
    },
}
