"""
lab/of_aia.py: the studies of AIA, of the two tasks and of the main job. lab/studies.py tells what
the words mean, and has all studies.
"""
from lab.conflict import MATRICES
from model import SIZES
from toy.words import KINDS

EVERY = "--aia_every 1 --exam 30"
PULLED = f"--aia 1 {EVERY}"
SELDOM = "--eval_every 100"  # ten evaluations take as long as a hundred steps
SPECKLED = "data/speckled-nano"
DEEP = "--n_layer 12 --n_embd 64"
THIN = "--n_embd 64"

ARMS = {
    "main": {"flags": "--aia 0.1", "steps": 5500},
    "without": {"flags": "", "steps": 2200, "from": "main"},  # its second phase, without AIA
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
    "weak-apart": {"flags": f"{PULLED} --maps", "steps": 400, "from": "weak",
                   "aim": "draws,sees"},
    "weak-apart-token": {"flags": f"{PULLED} --each token", "steps": 400, "from": "weak",
                         "aim": "draws,sees"},
    # main is what weak would have become: the same rows in the same order. Not so of another seed
    "weak-stranger": {"flags": f"{PULLED} --maps", "steps": 400, "from": "weak",
                      "stranger": "main"},
    "weak-row": {"flags": f"{PULLED} --each row", "steps": 400, "from": "weak", "aim": "main"},
    "weak-head": {"flags": f"{PULLED} --each head", "steps": 400, "from": "weak", "aim": "main"},
    "weak-token": {"flags": f"{PULLED} --each token", "steps": 400, "from": "weak",
                   "aim": "main"},
    # weights of the loss; and AIA's plainest rival
    "weak-light": {"flags": f"--aia 0.1 {EVERY} --reference paper", "steps": 400, "from": "weak"},
    "weak-heavy": {"flags": f"--aia 10 {EVERY} --reference paper", "steps": 400, "from": "weak"},
    "weak-balance": {"flags": "--balance --exam 30", "steps": 400, "from": "weak"},
    # AIA without what the paper relaxes it by
    "weak-layers": {"flags": f"{PULLED} --control layers", "steps": 400, "from": "weak"},
    "weak-absolute": {"flags": f"{PULLED} --control absolute", "steps": 400, "from": "weak"},
    # references that had less time; and one that draws out of noise, attending both ways
    "brief-draws": {"flags": "--task generate --batch_size 10 --exam 30", "steps": 1000},
    "brief-sees": {"flags": "--task understand --batch_size 22 --exam 30", "steps": 1000},
    "brief-flow": {"flags": "--arch transfusion --task generate --batch_size 10 --exam 30",
                   "steps": 1000},
    "weak-brief": {"flags": PULLED, "steps": 400, "from": "weak", "aim": "brief-draws,brief-sees"},
    "weak-flow": {"flags": PULLED, "steps": 400, "from": "weak", "aim": "brief-flow,brief-sees"},
    # the same where the rows are few, so that it learns them by heart
    "few": {"flags": "--exam 30 --n_train 500", "steps": 400, "from": "weak"},
    "few-small": {"flags": f"{PULLED} --n_train 500 --reference small", "steps": 400,
                  "from": "weak"},
    "few-paper": {"flags": f"{PULLED} --n_train 500 --reference paper", "steps": 400,
                  "from": "weak"},
    "few-own": {"flags": f"{PULLED} --n_train 500 --reference own", "steps": 400, "from": "weak"},
    "few-decay": {"flags": "--exam 30 --n_train 500 --weight_decay 1", "steps": 400,
                  "from": "weak"},
    **{f"few-{n}": {"flags": f"--exam 30 --n_train {n}", "steps": 400, "from": "weak"}
       for n in (250, 4000)},
    **{f"few-{n}-paper": {"flags": f"{PULLED} --n_train {n} --reference paper", "steps": 400,
                          "from": "weak"} for n in (250, 4000)},
    "few-dropout": {"flags": "--exam 30 --n_train 500 --dropout .1", "steps": 400, "from": "weak"},
    # a network that has learned both: the main job's first phase (3,300 steps), and as many steps
    # more as a weak one has; AIA at several weights, and on every fourth step, four times as strong
    "strong": {"flags": "--aia_start .892 --exam 30", "steps": 3700},
    "strong-light": {"flags": f"--aia 0.1 {EVERY} --reference paper {SELDOM}", "steps": 400,
                     "from": "strong"},
    "strong-paper": {"flags": f"{PULLED} --reference paper {SELDOM}", "steps": 400,
                     "from": "strong"},
    "strong-heavy": {"flags": f"--aia 10 {EVERY} --reference paper {SELDOM}", "steps": 400,
                     "from": "strong"},
    "strong-every": {"flags": f"--aia 0.1 {EVERY} {SELDOM}", "steps": 400, "from": "strong"},
    "strong-fourth": {"flags": f"--aia 0.1 --exam 30 {SELDOM}", "steps": 400, "from": "strong"},
    # other mixes of the tasks, with AIA; and, where the network is strong, one task of ten
    **{f"mix-{a}-to-{b}": {"flags": f"{PULLED} --ratio {a}:{b}", "steps": 400, "from": "weak"}
       for a, b in ((1, 1), (2, 1), (4, 1), (1, 2))},
    "draw-more": {"flags": f"--ratio 9:1 --exam 30 {SELDOM}", "steps": 400, "from": "strong"},
    "draw-more-small": {"flags": f"{PULLED} --ratio 9:1 {SELDOM}", "steps": 400,
                        "from": "strong"},
    "draw-more-own": {"flags": f"{PULLED} --ratio 9:1 --reference own {SELDOM}", "steps": 400,
                      "from": "strong"},
    "see-more": {"flags": f"--ratio 1:9 --exam 30 {SELDOM}", "steps": 400, "from": "strong"},
    "see-more-small": {"flags": f"{PULLED} --ratio 1:9 {SELDOM}", "steps": 400, "from": "strong"},
    "see-more-own": {"flags": f"{PULLED} --ratio 1:9 --reference own {SELDOM}", "steps": 400,
                     "from": "strong"},
    # from the first step on
    "scratch": {"flags": f"--aia_start 0 --exam 30 {SELDOM}", "steps": 600},
    "scratch-small": {"flags": f"{PULLED} --aia_start 0 {SELDOM}", "steps": 600},
    "scratch-fade": {"flags": f"{PULLED} --aia_start 0 --aia_fade {SELDOM}", "steps": 600},
    "scratch-heads": {"flags": f"{PULLED} --aia_start 0 --heads 2 {SELDOM}", "steps": 600,
                      "aim": "strong"},
    # other shapes
    "deep": {"flags": f"{DEEP} --exam 30", "steps": 1000},
    "deep-small": {"flags": PULLED, "steps": 400, "from": "deep"},
    "deep-paper": {"flags": f"{PULLED} --reference paper", "steps": 400, "from": "deep"},
    "thin": {"flags": f"{THIN} --exam 30", "steps": 1000},
    "thin-small": {"flags": PULLED, "steps": 400, "from": "thin"},
    "thin-paper": {"flags": f"{PULLED} --reference paper", "steps": 400, "from": "thin"},
    # pictures with much in them that nobody can foretell
    "speckled": {"flags": "--exam 30", "steps": 1000, "data": SPECKLED},
    "speckled-draws": {"flags": "--task generate --batch_size 10 --exam 30", "steps": 1000,
                       "data": SPECKLED},
    "speckled-sees": {"flags": "--task understand --batch_size 22 --exam 30", "steps": 1000,
                      "data": SPECKLED},
    "speckled-small": {"flags": PULLED, "steps": 400, "from": "speckled", "data": SPECKLED,
                       "aim": "speckled-draws,speckled-sees"},
    "speckled-paper": {"flags": f"{PULLED} --reference paper", "steps": 400, "from": "speckled",
                       "data": SPECKLED},
    # what a network is not told
    "told": {"flags": "--interleave --exam 30", "steps": 1000},
    "untold": {"flags": "--interleave --no-cues --exam 30", "steps": 1000},
    "misaligned": {"flags": "--no-aligned --exam 30", "steps": 1000},
}

OTHER_MIXES = ("mix-2-to-1", "mix-4-to-1", "mix-1-to-2", "weak-small")

# what is claimed, and who says so
AIA = "Zheng et al. 2025, arXiv 2511.22663"
OURS = "a question of our own"
CLAIMS = {
    "learns": ("One network learns to draw and to see, whatever the seed.", "README.md"),
    "moves": ("AIA moves the curves of a network that does both tasks to those of single-task "
              "networks.", f"{AIA}, figure 5"),
    "helps": ("AIA improves both tasks.", AIA),
    "helps weak": ("AIA helps a weak network that trains on to see.", f"{AIA}, of Emu3"),
    "helps few": ("Where rows are few and are learned by heart, AIA helps to see more than to stop "
                  "in time.", OURS),
    "content": ("It is the content of its targets that helps, not restraint alone.", OURS),
    "headroom": ("A weak network that is made to attend as one that has learned both tasks learns "
                 "both better.", OURS),
    "premise": ("So does one that is made to attend as single-task networks do.",
                f"{OURS}, as AIA's premise is that these attend better"),
    "fine": ("It is enough to aim at a number for each row, each head of a row, or each token.",
             OURS),
    "plainly": ("Where rows are few, AIA helps to see more than weight decay of 1 or dropout of "
                "0.1.", OURS),
    "helps shapes": ("AIA helps a weak network that is deeper, or narrower.", OURS),
    "helps speckled": ("AIA helps a weak network whose pictures nobody can foretell.", OURS),
    "helps scratch": ("AIA helps from the first step on.", OURS),
    "anchor see": ("Where nearly all rows are to draw, AIA keeps seeing from being forgotten.",
                   OURS),
    "anchor draw": ("Where nearly all rows are to see, AIA keeps drawing from being forgotten.",
                    OURS),
    "every": ("AIA on every step brings the curves nearer than on every fourth, four times as "
              "strong.", "as the paper has it; the default here is the other"),
    "spread": ("The curves hardly depend on what goes in.", f"{AIA}, table 1"),
    "weights": ("On a weak base any of many weights of AIA's loss will do; on a strong one it is "
                "sensitive.", AIA),
    "balance": ("To scale both tasks' gradients to the same norm in each step helps both.",
                "as of Janus-Pro in preference optimisation, arXiv 2603.17044"),
    "relaxed": ("AIA helps more with targets of ranges of layers, and with Huber's loss, than "
                "without.", f"{AIA}, table 3"),
    "references": ("References that draw from left to right are better than those that see both "
                   "ways.", AIA),
    "synergy": ("Both tasks together are learned better than one alone.", f"{AIA}, of drawing"),
    "ratio": ("As many rows to draw as to understand is the best mix.", AIA),
    "cues": ("Without cues to the task beside what is said the curves are less opposed, and both "
             "tasks are learned less well.", f"{AIA}, left open"),
    "aligned": ("If what is seen and what is drawn have different tokens, both tasks are learned "
                "less well.", "of a synthetic world, arXiv 2505.23043"),
    "in conflict": ("If what is seen and what is drawn have different tokens, the tasks' gradients "
                    "come into conflict.", OURS),
    "conflict": ("The two tasks' gradients are in conflict.", "what all of this is about"),
    "ends": ("Gradients are in conflict in the shallow and deep layers, least in the middle.",
             "Uni-X, arXiv 2509.24365, of those of vision and of text"),
}

CURVES = ("distance/generate", "distance/understand")
LOSSES = ("loss/generate", "loss/understand")
SCORES = ("summary/toy-GenEval", "summary/answered")

REVISIONS = ("Some of its runs may be older than flags that they do not use: of seed 0 weak, "
             "weak-paper and weak-maps of e5f0b86, made anew at 6be194a, are the same to the bit, "
             "and so are the first 400 steps of weak at 30708df.")

# no distances: each arm's is to its own target
OF_WEAK = {
    "loss/understand": .005, "loss/generate": .002, "summary/toy-GenEval": .02,
    "summary/toy-POPE F1": .03, "summary/toy-MME": 30, "summary/answered": .02,
}
OF_CONFLICT = [*[f"layer {layer}" for layer in range(SIZES["nano"][0])], "mean", "ends - middle"]

STUDIES = {
    "scores": {
        "question": "Does the main job learn every skill, whatever the seed?",
        "arms": ["main"],
        "seeds": 5,
        "note": "The recipe was chosen with seeds 0 to 3 and with this exam (skills.md); seed 4 "
                "alone was run after the last choice.",
        "promise": {
            "summary/toy-GenEval": (.90, .87),
            "summary/answered": (.97, .97),
            **{f"answered/{kind}": (.90, .90) for kind in KINDS},
            "summary/toy-MME": (950, 950),
            "summary/toy-MMVP": (.95, .95),
            "toy-GenEval/held-out": (.50, .50),
        },
        "tests": {"learns": "promise"},
    },
    "aia": {
        "question": "Does AIA move the curves, and does it help?",
        "arms": ["main", "without"],
        "seeds": 5,
        "rivals": [("main", "without")],
        "measures": {
            "distance/generate": .01, "distance/understand": .01,
            "loss/generate": .002, "loss/understand": .002,
            "summary/toy-GenEval": .01, "summary/toy-POPE F1": .005, "summary/toy-MME": 10,
            "summary/toy-MMVP": .02, "summary/answered": .01, "toy-GenEval/held-out": .02,
        },
        "tests": {"moves": ([("main", "without")], CURVES),
                  "helps": ([("main", "without")], SCORES)},
    },
    "every": {
        "question": "Is AIA on every fourth step, four times as strong, as good as on every step?",
        "arms": ["strong", "strong-every", "strong-fourth"],
        "seeds": 3,
        "note": "If it is refuted, the default, every fourth, is right.",
        "rivals": [("strong-every", "strong-fourth")],
        "measures": {
            "distance/generate": .005, "distance/understand": .005, "loss/generate": .002,
            "loss/understand": .005, "summary/toy-GenEval": .01, "summary/answered": .01,
        },
        "tests": {"every": ([("strong-every", "strong-fourth")], CURVES)},
    },
    "spread": {
        "question": "Do the curves depend on what goes in?",
        "arms": ["without"],
        "seeds": 5,
        "note": "The paper has standard deviations of 0.02 to 0.13 over samples, and reads them as "
                "little. Little is promised here as: rows differ by less than half of what layers "
                "differ by.",
        "promise": {"spread/generate": (.5, .5), "spread/understand": (.5, .5)},
        "tests": {"spread": "promise"},
    },
    "conflict": {
        "question": "Do the two tasks' gradients pull the same weights in opposite directions?",
        "arms": ["weak", "main"],
        "seeds": 5,
        "note": "Measured where a run's second phase begins: at step 600 of weak, 3,300 of main. "
                "Only of a cosine below -0.1 it is said that it is worth the name. In preference "
                "optimisation of Janus-Pro the two tasks' gradients were near-orthogonal, and 11 "
                "to 14 times apart in norm (arXiv 2603.17044); here a row's loss is a mean over "
                "its tokens, so norms are nearer from the start. Seed 0 of main had been looked "
                "at, layer by layer, when it was settled what counts.",
        "rivals": [("main", "zero"), ("weak", "zero")],
        "measures": {f"conflict {matrix}/{column}": .1
                     for matrix in MATRICES for column in OF_CONFLICT},
        "tests": {"conflict": ([("main", "zero")], [f"conflict {m}/mean" for m in MATRICES]),
                  "ends": ([("main", "zero")], [f"conflict {m}/ends - middle" for m in MATRICES])},
    },
    "synergy": {
        "question": "Does each task gain from the other?",
        "arms": ["without", "draws", "sees"],
        "seeds": 5,
        "note": "Alone it has as many rows of the task in as many steps; both are without AIA.",
        "rivals": [("without", "draws"), ("without", "sees")],
        "measures": {
            "loss/generate": .002, "loss/understand": .005, "summary/toy-GenEval": .01,
            "summary/toy-POPE F1": .005, "summary/toy-MME": 10, "summary/toy-MMVP": .02,
            "summary/answered": .01, "toy-GenEval/held-out": .02,
        },
        "tests": {"synergy": ([("without", "draws"), ("without", "sees")], LOSSES)},
    },
    "headroom": {
        "question": "How much is there to gain from another network's attention?",
        "arms": ["weak", "weak-main", "weak-heads", "weak-maps"],
        "seeds": 5,
        "note": "The other network is main, which is what weak would have become: it was the same "
                "at step 600. (In premise.md a stranger teaches.) It may be aimed at by its whole "
                "maps, by each head's interaction, or by each layer's.",
        "rivals": [("weak-maps", "weak"), ("weak-heads", "weak"), ("weak-main", "weak")],
        "measures": OF_WEAK,
        "tests": {"headroom": ([("weak-maps", "weak"), ("weak-heads", "weak"),
                                ("weak-main", "weak")], LOSSES)},
    },
    "premise": {
        "question": "Do single-task networks attend in a way that is worth learning from?",
        "arms": ["weak", "weak-token", "weak-maps", "weak-stranger", "weak-apart-token",
                 "weak-apart"],
        "seeds": 5,
        "note": "weak-apart is held to the whole attention of two single-task networks, which had "
                "as many rows of their task and began with the same weights; weak-maps to that of "
                "one network that learned both, with AIA in its second phase. How well these "
                "teachers themselves draw and see, synergy.md tells. But the latter is also what "
                "the weak network would have become: it was the same at step 600. So weak-stranger "
                "is held to that network of another seed, which began with other weights. This "
                "arm was added when all others were known; weak, weak-token and weak-maps were "
                "known before the study was made. token: to a number for each token that looks, "
                f"as AIA has one for a layer. {REVISIONS}",
        "rivals": [("weak-apart-token", "weak"), ("weak-apart", "weak"), ("weak-stranger", "weak"),
                   ("weak-apart-token", "weak-token"), ("weak-apart", "weak-maps"),
                   ("weak-apart", "weak-stranger")],
        "measures": OF_WEAK,
        "tests": {"premise": ([("weak-apart-token", "weak"), ("weak-apart", "weak")], LOSSES)},
    },
    "weak": {
        "question": "Does AIA help a weak network that trains on, and does its target matter?",
        "arms": ["weak", "weak-small", "weak-paper", "weak-own", "weak-swapped", "weak-constant"],
        "seeds": 8,
        "note": "The controls are the network's own curves, the other task's and a constant. If "
                "AIA helps, and it is refuted that it helps more than they do, what helps is "
                "restraint. That weak-own is compared with weak was added when the runs were "
                "there.",
        "rivals": [("weak-small", "weak"), ("weak-paper", "weak"), ("weak-own", "weak"),
                   ("weak-small", "weak-own"), ("weak-small", "weak-swapped"),
                   ("weak-small", "weak-constant"), ("weak-paper", "weak-own")],
        "measures": OF_WEAK,
        "tests": {"helps weak": ([("weak-small", "weak"), ("weak-paper", "weak")],
                                 ["loss/understand"]),
                  "content": ([("weak-small", "weak-own"), ("weak-small", "weak-swapped"),
                               ("weak-small", "weak-constant"), ("weak-paper", "weak-own")],
                              ["loss/understand"])},
    },
    "dose": {
        "question": "How much hangs on the weight of AIA's loss where the network is weak?",
        "arms": ["weak", "weak-light", "weak-paper", "weak-heavy"],
        "seeds": 5,
        "note": "Weights of 0.1, 1 and 10, at the paper's targets. If any of them will do, their "
                "verdicts are the same.",
        "rivals": [("weak-light", "weak"), ("weak-paper", "weak"), ("weak-heavy", "weak")],
        "measures": OF_WEAK,
        "tests": {"weights": ([("weak-light", "weak"), ("weak-paper", "weak"),
                               ("weak-heavy", "weak")], LOSSES)},
    },
    "late": {
        "question": "How much hangs on the weight of AIA's loss where the network is strong?",
        "arms": ["strong", "strong-light", "strong-paper", "strong-heavy"],
        "seeds": 3,
        "note": "Weights of 0.1, 1 and 10, at the paper's targets, on a network that saw five and "
                "a half times as many rows as the weak one of dose.md.",
        "rivals": [("strong-light", "strong"), ("strong-paper", "strong"),
                   ("strong-heavy", "strong")],
        "measures": OF_WEAK,
        "tests": {"weights": ([("strong-light", "strong"), ("strong-paper", "strong"),
                               ("strong-heavy", "strong")], LOSSES)},
    },
    "balance": {
        "question": "Do tasks that pull equally hard learn better?",
        "arms": ["weak", "weak-balance"],
        "seeds": 5,
        "rivals": [("weak-balance", "weak")],
        "measures": OF_WEAK,
        "tests": {"balance": ([("weak-balance", "weak")], LOSSES)},
    },
    "few": {
        "question": "Does AIA help a weak network that trains on with few rows?",
        "arms": ["few", "few-small", "few-paper", "few-own", "few-decay", "few-dropout"],
        "seeds": 5,
        "note": "Of 500 scenes. Who stops in time does not learn them by heart, either: hence "
                f"best. {REVISIONS}",
        "rivals": [("few-small", "few"), ("few-paper", "few"), ("few-paper", "few-own"),
                   ("few-paper", "few-decay"), ("few-paper", "few-dropout")],
        "measures": {"best/understand": .005, "best/generate": .002} | OF_WEAK,
        "tests": {"helps few": ([("few-small", "few"), ("few-paper", "few")],
                                ["best/understand"]),
                  "content": ([("few-paper", "few-own")], ["best/understand"]),
                  "plainly": ([("few-paper", "few-decay"), ("few-paper", "few-dropout")],
                              ["best/understand"])},
    },
    "grain": {
        "question": "How much must be said of another network's attention before it helps?",
        "arms": ["weak", "weak-main", "weak-row", "weak-head", "weak-token", "weak-maps"],
        "seeds": 5,
        "note": "The other network is main, which is what weak would have become: so its heads are "
                "taken to be alike by their place. weak-main is told a number a layer, weak-maps "
                "one for each pair of tokens; these two, and weak, were known before the study "
                "was made. A number a layer, a row or a head is aimed at by Huber's loss, one a "
                "token or a pair by the divergence of the mean over heads: so between head and "
                f"token the loss changes, too. {REVISIONS}",
        "rivals": [("weak-row", "weak"), ("weak-head", "weak"), ("weak-token", "weak"),
                   ("weak-maps", "weak-token")],
        "measures": OF_WEAK,
        "tests": {"fine": ([("weak-row", "weak"), ("weak-head", "weak"), ("weak-token", "weak")],
                           LOSSES)},
    },
    "scenes": {
        "question": "Does it hang on how few the rows are whether AIA helps?",
        "arms": ["few-250", "few-250-paper", "few-4000", "few-4000-paper"],
        "seeds": 3,
        "note": "Of 250 and of 4,000 scenes; few.md has 500, weak.md all 40,000.",
        "rivals": [("few-250-paper", "few-250"), ("few-4000-paper", "few-4000")],
        "measures": {"best/understand": .005, "best/generate": .002} | OF_WEAK,
        "tests": {"helps few": ([("few-250-paper", "few-250"), ("few-4000-paper", "few-4000")],
                                ["best/understand"])},
    },
    "relaxed": {
        "question": "What are ranges of layers and Huber's loss worth to AIA?",
        "arms": ["weak", "weak-small", "weak-layers", "weak-absolute"],
        "seeds": 3,
        "note": "layers: each layer has a target of its own; with six layers that is within 0.03 "
                "of its range's. absolute: the loss is the distance itself, so near the target it "
                "pulls harder, too. The paper says no more of its ablation than that it is "
                "without.",
        "rivals": [("weak-small", "weak-layers"), ("weak-small", "weak-absolute")],
        "measures": OF_WEAK,
        "tests": {"relaxed": ([("weak-small", "weak-layers"), ("weak-small", "weak-absolute")],
                              LOSSES)},
    },
    "references": {
        "question": "Is it better to aim at who draws from left to right, or longer?",
        "arms": ["weak", "weak-small", "weak-brief", "weak-flow", "brief-draws", "brief-flow",
                 "brief-sees"],
        "seeds": 3,
        "note": "weak-brief and weak-flow aim at networks of one task that had 1,000 steps, "
                "weak-small at what ships, of 5,500. Who draws for weak-flow does it out of noise, "
                "and attends both ways within a picture; its curve is taken at a fixed set of "
                "times. It cannot draw much yet, as its scores tell, so of a difference it is not "
                "known which of the two makes it.",
        "rivals": [("weak-brief", "weak-flow"), ("weak-small", "weak-brief")],
        "measures": OF_WEAK,
        "tests": {"references": ([("weak-brief", "weak-flow")], LOSSES)},
    },
    "mix": {
        "question": "With AIA, which mix of the tasks is the best?",
        "arms": ["mix-1-to-1", *OTHER_MIXES],
        "seeds": 3,
        "note": "Rows to draw : rows to understand, while a weak network trains on; weak-small has "
                "5 : 11. Who has more rows of a task learns that better, so what counts is the sum "
                "of both losses.",
        "rivals": [("mix-1-to-1", other) for other in OTHER_MIXES],
        "measures": {"both tasks/loss": .005} | OF_WEAK,
        "tests": {"ratio": ([("mix-1-to-1", other) for other in OTHER_MIXES], ["both tasks/loss"])},
    },
    "skew": {
        "question": "Does AIA keep a task from being forgotten, of which there are few rows?",
        "arms": ["draw-more", "draw-more-small", "draw-more-own",
                 "see-more", "see-more-small", "see-more-own"],
        "seeds": 3,
        "note": "Nine rows of ten are of one task, while a network that has learned both trains "
                "on; the tenth is what is called replay. own holds it to the curves it began with.",
        "rivals": [("draw-more-small", "draw-more"), ("draw-more-own", "draw-more"),
                   ("see-more-small", "see-more"), ("see-more-own", "see-more")],
        "measures": OF_WEAK,
        "tests": {"anchor see": ([("draw-more-small", "draw-more"),
                                  ("draw-more-own", "draw-more")], ["loss/understand"]),
                  "anchor draw": ([("see-more-small", "see-more"),
                                   ("see-more-own", "see-more")], ["loss/generate"])},
    },
    "scratch": {
        "question": "Does AIA help from the first step on?",
        "arms": ["scratch", "scratch-small", "scratch-fade", "scratch-heads"],
        "seeds": 3,
        "note": "fade: its weight falls to zero. heads: two of each layer's four, those that look "
                "most, at strong's.",
        "rivals": [("scratch-small", "scratch"), ("scratch-fade", "scratch"),
                   ("scratch-heads", "scratch")],
        "measures": OF_WEAK,
        "tests": {"helps scratch": ([("scratch-small", "scratch"), ("scratch-fade", "scratch"),
                                     ("scratch-heads", "scratch")], LOSSES)},
    },
    "shapes": {
        "question": "Does AIA help weak networks of other shapes?",
        "arms": ["deep", "deep-small", "deep-paper", "thin", "thin-small", "thin-paper"],
        "seeds": 3,
        "note": "deep has 12 layers of 64 channels, thin 6 of them. small is the curves of nano's "
                "references, at the same relative depth.",
        "rivals": [("deep-small", "deep"), ("deep-paper", "deep"), ("thin-small", "thin"),
                   ("thin-paper", "thin")],
        "measures": OF_WEAK,
        "tests": {"helps shapes": ([("deep-small", "deep"), ("deep-paper", "deep"),
                                    ("thin-small", "thin"), ("thin-paper", "thin")], LOSSES)},
    },
    "speckled": {
        "question": "Does AIA help where pictures are hard to foretell?",
        "arms": ["speckled", "speckled-small", "speckled-paper"],
        "seeds": 3,
        "note": "Each patch of plain ground has one of eight pale shades at random. small is the "
                "curves of single-task networks of that world, with as many rows of their task as "
                "speckled has in its 1,000 steps.",
        "rivals": [("speckled-small", "speckled"), ("speckled-paper", "speckled")],
        "measures": OF_WEAK,
        "tests": {"helps speckled": ([("speckled-small", "speckled"),
                                      ("speckled-paper", "speckled")], LOSSES)},
    },
    "cues": {
        "question": "What if the special tokens do not tell the task, nor the place in a row?",
        "arms": ["weak", "told", "untold"],
        "seeds": 3,
        "note": "Of told and untold half of the rows stand behind another row, which may be of the "
                "other task; losses and curves are of rows that all do, exams of rows that do not. "
                "For untold that a picture or an answer begins or ends is one and the same token. "
                "In an exam only what the task asks for may be said, so what a network takes its "
                "task to be shows in the losses alone.",
        "rivals": [("told", "untold"), ("weak", "told")],
        "measures": {"correlation/over layers": .1} | OF_WEAK,
        "tests": {"cues": ([("told", "untold")], ["correlation/over layers", *LOSSES])},
    },
    "aligned": {
        "question": "What if what is seen and what is drawn have different tokens?",
        "arms": ["weak", "misaligned"],
        "seeds": 5,
        "note": "misaligned: of a picture that is seen each digit of each token is shifted by one, "
                "so alone seeing is as easy as it was.",
        "rivals": [("weak", "misaligned")],
        "measures": OF_WEAK,
        "tests": {"aligned": ([("weak", "misaligned")], LOSSES)},
    },
    "clash": {
        "question": "Do gradients conflict where what is seen and what is drawn have different "
                    "tokens?",
        "arms": ["misaligned", "weak"],
        "seeds": 5,
        "note": "Measured where a run's second phase begins, at step 600. Only of a cosine below "
                "-0.1 it is said that it is worth the name.",
        "rivals": [("misaligned", "zero"), ("misaligned", "weak")],
        "measures": {f"conflict {matrix}/mean": .1 for matrix in MATRICES},
        "tests": {"in conflict": ([("misaligned", "zero")],
                                  [f"conflict {matrix}/mean" for matrix in MATRICES])},
    },
}

# where AIA was tried: (in words, study, arm, rival)
REGIMES = [
    ("main job", "aia", "main", "without"),
    ("weak, small", "weak", "weak-small", "weak"),
    ("weak, paper, 0.1", "dose", "weak-light", "weak"),
    ("weak, paper", "weak", "weak-paper", "weak"),
    ("weak, paper, 10", "dose", "weak-heavy", "weak"),
    ("500 scenes, small", "few", "few-small", "few"),
    ("500 scenes, paper", "few", "few-paper", "few"),
    ("250 scenes, paper", "scenes", "few-250-paper", "few-250"),
    ("4,000 scenes, paper", "scenes", "few-4000-paper", "few-4000"),
    ("12 layers, small", "shapes", "deep-small", "deep"),
    ("12 layers, paper", "shapes", "deep-paper", "deep"),
    ("64 channels, small", "shapes", "thin-small", "thin"),
    ("64 channels, paper", "shapes", "thin-paper", "thin"),
    ("speckled, small", "speckled", "speckled-small", "speckled"),
    ("speckled, paper", "speckled", "speckled-paper", "speckled"),
    ("strong, paper, 0.1", "late", "strong-light", "strong"),
    ("strong, paper", "late", "strong-paper", "strong"),
    ("strong, paper, 10", "late", "strong-heavy", "strong"),
    ("9 : 1, small", "skew", "draw-more-small", "draw-more"),
    ("1 : 9, small", "skew", "see-more-small", "see-more"),
    ("from scratch, small", "scratch", "scratch-small", "scratch"),
    ("from scratch, fading", "scratch", "scratch-fade", "scratch"),
    ("from scratch, heads", "scratch", "scratch-heads", "scratch"),
]
