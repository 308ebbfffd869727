"""
lab/of_systems.py: the studies of ways to take the network apart, or to see and draw otherwise than
token by token. lab/studies.py tells what the words mean, and has all studies.
"""
from lab.of_aia import AIA, CURVES, LOSSES, OURS, SCORES, SELDOM

SHORT = f"--stages off --exam 30 {SELDOM}"
SEE = "--task understand --batch_size 22 --see patches --exam 30"
NEW_EYES = "--no-pretrained"
UTAMOE = f"--arch utamoe {NEW_EYES} --exam 30"
FUSED = f"--arch lmfusion --exam 30 {SELDOM}"
ASKED = f"--arch metaquery --batch_size 10 --exam 30 {SELDOM}"
# token by token; of those that draw otherwise see systems/README.md
OTHERS = {"januspro": NEW_EYES, "evev2": "", "bagel": f"--draw tokens --no-full {NEW_EYES}",
          "utamoe": NEW_EYES, "moe": "", "separate": ""}
WITH_EYES = ("januspro", "bagel", "utamoe")  # of these, those that see by an encoder

ARMS = {
    # ways to take the network apart, in a tenth of the main job, with encoders from nothing
    "emu3": {"flags": f"--arch emu3 {SHORT}", "steps": 550},
    **{arch: {"flags": f"--arch {arch} {more} {SHORT}", "steps": 550}
       for arch, more in OTHERS.items()},
    "emu3-aia": {"flags": "--aia 0.1 --exam 30", "steps": 220, "from": "emu3"},
    # the same with the encoder that was trained before, with words
    **{f"{arch}-eyes": {"flags": f"--arch {arch} {OTHERS[arch].replace(NEW_EYES, '')} {SHORT}",
                        "steps": 550} for arch in WITH_EYES},
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
    # Transfusion: attention within a picture that is drawn
    "flow": {"flags": f"--arch transfusion {SHORT}", "steps": 550},
    "flow-causal": {"flags": f"--arch transfusion --causal --no-full {SHORT}", "steps": 550},
    # BAGEL: what exists in copies
    "bagel-flow": {"flags": f"--arch bagel {SHORT}", "steps": 550},
    "bagel-ffn": {"flags": f"--arch bagel --split ffn {SHORT}", "steps": 550},
    "bagel-none": {"flags": f"--arch bagel --split none {SHORT}", "steps": 550},
    # LMFusion: what exists in copies, and how much the words' weights may learn
    "fused": {"flags": FUSED, "steps": 550, "data": "data/toy-nano", "from": "reads-third"},
    "fused-ffn": {"flags": f"{FUSED} --split ffn", "steps": 550, "data": "data/toy-nano",
                  "from": "reads-third"},
    "fused-slowly": {"flags": f"{FUSED} --old_lr .1", "steps": 550, "data": "data/toy-nano",
                     "from": "reads-third"},
    "fused-freely": {"flags": f"{FUSED} --old_lr 1", "steps": 550, "data": "data/toy-nano",
                     "from": "reads-third"},
    # MetaQuery: how a network that sees is asked for a picture
    "asked": {"flags": ASKED, "steps": 550, "from": "looks-third"},
    "asked-by-4": {"flags": f"{ASKED} --queries 4", "steps": 550, "from": "looks-third"},
    "asked-proj-enc": {"flags": f"{ASKED} --connector proj-enc", "steps": 550,
                       "from": "looks-third"},
    "asked-by-none": {"flags": f"{ASKED} --condition last", "steps": 550, "from": "looks-third"},
    # MetaMorph: who draws features, and sees; or draws alone, in as many rows to draw
    "features": {"flags": f"--arch metamorph {SHORT}", "steps": 550},
    "features-alone": {"flags": f"--arch metamorph --task generate --batch_size 10 {SHORT}",
                       "steps": 550},
    # ILLUME: tokens that stand for features, or for pixels; and marks of its own drawings
    "semantic": {"flags": f"--arch illume {SHORT}", "steps": 550, "data": "data/semantic-nano"},
    "pixel": {"flags": f"--arch illume {SHORT}", "steps": 550, "data": "data/toy-nano"},
    "marked": {"flags": "--exam 30", "steps": 400, "from": "weak", "marks": ""},
    "marked-shuffled": {"flags": "--exam 30", "steps": 400, "from": "weak",
                        "marks": "--control shuffled"},
    "marked-true": {"flags": "--exam 30", "steps": 400, "from": "weak",
                    "marks": "--control true"},
}

# every system, as its flags and what it begins from: at its full length, and at a third of that.
# Who begins from a network that sees, or reads, draws in as many rows as all others
JOINTLY = "--stages off --match active"
SYSTEMS = {
    "emu3": {"flags": ""},
    **{arch: {"flags": f"--arch {arch} {JOINTLY}"}
       for arch in ("januspro", "evev2", "bagel", "utamoe", "transfusion", "metamorph")},
    "illume": {"flags": f"--arch illume {JOINTLY}", "data": "data/semantic-nano"},
    "lmfusion": {"flags": "--arch lmfusion", "data": "data/toy-nano", "from": "reads"},
    "llavafusion": {"flags": "--arch llavafusion --batch_size 10", "from": "looks"},
    "metaquery": {"flags": "--arch metaquery --batch_size 10", "from": "looks"},
    "moe": {"flags": f"--arch moe {JOINTLY}"},
    "separate": {"flags": f"--arch separate {JOINTLY}"},
}
BEGINNINGS = {
    "reads": {"flags": "--task understand --batch_size 22", "data": "data/told-nano"},
    "looks": {"flags": "--task understand --batch_size 22"},
}
for name, about in (SYSTEMS | BEGINNINGS).items():
    for length, steps in (("whole", 5500), ("third", 1833)):
        of_length = about | {"flags": f"{about['flags']} --exam 30", "steps": steps}
        if "from" in about:
            of_length["from"] = f"{about['from']}-{length}"
        ARMS[f"{name}-{length}"] = of_length

CLAIMS = {
    "apart": ("To take a network apart improves both tasks.", f"{AIA}, table 2"),
    "nearer": ("To take a network apart brings its curves nearer to those of single-task networks.",
               f"{AIA}, figure 1"),
    "opposed": ("The two tasks' curves are negatively correlated over the layers, in every "
                "architecture.", f"{AIA}, figure 1"),
    "round trip": ("A network that was taken apart must decode what it drew, and encode it again, "
                   "before it can see it.", AIA),
    "ladder": ("Who only sees should copy all weights by modality; norms alone are not enough.",
               "EVEv2, arXiv 2502.06788, section 4.3"),
    "router": ("The parts of UTAMoE (a router that learns the task, a shared expert, two stages) "
               "each earn their place.", f"{OURS}, on arXiv 2506.03591"),
    "systems": ("Every system draws at least 0.60 of the prompts right, and answers at least 0.80 "
                "of the questions.", OURS),
    "faster": ("To take a network apart, or to draw otherwise than token by token, improves both "
               "tasks.", "each system's paper, of its own"),
    "both ways": ("Out of noise, attention both ways within a picture draws and sees better.",
                  "Transfusion, arXiv 2408.11039, table 5"),
    "copies": ("Out of noise, copies of all weights by what is drawn draw better than of FFNs "
               "alone, or none.", "BAGEL, arXiv 2505.14683, figure 3"),
    "deep": ("Where words' weights stay, copies of all others draw better than of FFNs alone.",
             "LMFusion, arXiv 2412.15188, section 5.1"),
    "stay": ("A network draws better if its words' weights learn on.",
             f"{OURS}: LMFusion, section 5.1, has it that they may as well stay"),
    "asked": ("A frozen network draws better if more queries ask it, and through Enc-Proj.",
              "MetaQuery, arXiv 2504.06256, table 3"),
    "unlock": ("Features are drawn better by who learns to see as well.",
               "MetaMorph, arXiv 2412.14164, figure 2"),
    "semantic": ("Image tokens that stand for features are learned faster than those for pixels.",
                 "ILLUME, arXiv 2412.06673, figure 6"),
    "marks": ("Marks of its own drawings help a network to see and to draw.",
              "ILLUME, table 7"),
    "eyes": ("Who sees by an encoder that was trained with words learns faster to see than who "
             "sees image tokens.", OURS),
}

# (arm, rival); moe is a control, as it is not taken apart by task or modality
TAKEN_APART = [(arm, "emu3") for arm in OTHERS if arm != "moe"]
AGAINST_ZERO = [(arm, "zero") for arm in ("strong", "emu3", *OTHERS, "deep")]

OF_DRAWING = {"loss/generate": .01, "summary/toy-GenEval": .02}
OF_SHORT = OF_DRAWING | {"loss/understand": .02, "summary/answered": .02}
PROMPTS = ["a purple cross", "a circle and a square", "three triangles",
           "a circle left of a square", "a red circle and a blue square", "a red cross"]
OF_SYSTEMS = ("All have the same rows in as many steps, and widths that bring their FLOPs a token "
              "nearest to emu3's. But lmfusion, llavafusion and metaquery go on from a network "
              "that reads or sees, at the end of the first phase of a run as long as theirs, and "
              "have its width; and by flow a picture is read with four noises a step. moe and "
              "separate are controls. Nothing names a red cross in training.")

STUDIES = {
    "apart": {
        "question": "What does it bring to take the network apart?",
        "arms": ["emu3", "emu3-aia", *OTHERS],
        "seeds": 3,
        "note": "All train jointly and from nothing, the encoders too; the papers' start from "
                "trained networks, in stages. emu3-aia and moe are controls: neither is taken "
                "apart by task or modality.",
        "rivals": [(arm, "emu3") for arm in ("emu3-aia", *OTHERS)],
        "measures": {
            "distance/generate": .01, "distance/understand": .01, "loss/generate": .005,
            "loss/understand": .02, "summary/toy-GenEval": .02, "summary/answered": .02,
        },
        "tests": {"nearer": (TAKEN_APART, CURVES), "apart": (TAKEN_APART, LOSSES)},
    },
    "opposed": {
        "question": "Do the two tasks' curves run against each other?",
        "arms": ["strong", "emu3", *OTHERS, "deep"],
        "seeds": 3,
        "note": "Six layers are few; deep has twelve, of 64 channels.",
        "rivals": AGAINST_ZERO,
        "measures": {"correlation/over layers": .1},
        "tests": {"opposed": (AGAINST_ZERO, ["correlation/over layers"])},
    },
    "eyes": {
        "question": "Does who sees by an encoder that was trained before learn faster to see?",
        "arms": ["emu3", *[f"{arch}-eyes" for arch in WITH_EYES], "januspro"],
        "seeds": 3,
        "note": "januspro's encoder starts from nothing. All train jointly; encoders that were "
                "trained before at a tenth of the learning rate. bagel draws by tokens, and "
                "attends within a picture as all others do.",
        "rivals": [*[(f"{arch}-eyes", "emu3") for arch in WITH_EYES],
                   ("januspro-eyes", "januspro")],
        "measures": {"loss/understand": .02, "summary/answered": .02},
        "tests": {"eyes": ([(f"{arch}-eyes", "emu3") for arch in WITH_EYES],
                           ["loss/understand"])},
    },
    "systems": {
        "question": "How far is every system after a third of the way?",
        "arms": [f"{name}-third" for name in SYSTEMS],
        "seeds": 3,
        "note": OF_SYSTEMS,
        "rivals": [(f"{name}-third", "emu3-third") for name in SYSTEMS if name != "emu3"],
        "measures": {"loss/understand": .02, "summary/toy-GenEval": .02,
                     "summary/answered": .02},
        "prompts": PROMPTS,
        "tests": {"faster": ([(f"{name}-third", "emu3-third")
                              for name in SYSTEMS if name not in ("emu3", "moe")], SCORES)},
    },
    "whole": {
        "question": "What does every system draw and answer, trained to the end?",
        "arms": [f"{name}-whole" for name in SYSTEMS],
        "seeds": 1,
        "note": OF_SYSTEMS,
        "promise": {"summary/toy-GenEval": (.60, .60), "summary/answered": (.80, .80)},
        "prompts": PROMPTS,
        "tests": {"systems": "promise"},
    },
    "ladder": {
        "question": "Which weights should a network that only sees copy by modality?",
        "arms": ["see", "see-norm", "see-ffn", "see-all"],
        "seeds": 3,
        "note": "All train jointly and from nothing; the paper copies the weights of a trained "
                "language model, and trains in stages.",
        "rivals": [("see-all", "see"), ("see-all", "see-norm"), ("see-all", "see-ffn")],
        "measures": {"loss/understand": .01, "summary/answered": .02, "summary/toy-MMVP": .05},
        "tests": {"ladder": ([("see-all", "see"), ("see-all", "see-norm")], ["loss/understand"])},
    },
    "router": {
        "question": "What are the parts of UTAMoE worth?",
        "arms": ["two-stages", "label", "not-shared", "one-stage"],
        "seeds": 3,
        "note": "Its new encoder, embedding and head start from nothing here, wait in the first "
                "stage, and have half the learning rate in the second; the paper's come from a "
                "trained Janus-Pro. So of two stages against one this says little.",
        "rivals": [("two-stages", "label"), ("two-stages", "not-shared"),
                   ("two-stages", "one-stage")],
        "measures": {"loss/generate": .005, "loss/understand": .01, "summary/toy-GenEval": .02,
                     "summary/answered": .02},
        "tests": {"router": ([("two-stages", "label"), ("two-stages", "not-shared"),
                              ("two-stages", "one-stage")], LOSSES)},
    },
    "both-ways": {
        "question": "Out of noise, should a picture's tokens attend both ways?",
        "arms": ["flow", "flow-causal"],
        "seeds": 3,
        "note": "Latents are what it sees by, too, and within a picture that is seen attention is "
                "of the same kind.",
        "rivals": [("flow", "flow-causal")],
        "measures": OF_SHORT,
        "tests": {"both ways": ([("flow", "flow-causal")], LOSSES)},
    },
    "copies": {
        "question": "Out of noise, which weights should exist in copies?",
        "arms": ["bagel-flow", "bagel-ffn", "bagel-none"],
        "seeds": 3,
        "note": "A token has a use for as many weights in each.",
        "rivals": [("bagel-flow", "bagel-ffn"), ("bagel-flow", "bagel-none")],
        "measures": OF_SHORT,
        "tests": {"copies": ([("bagel-flow", "bagel-ffn"), ("bagel-flow", "bagel-none")],
                             ["loss/generate"])},
    },
    "fused": {
        "question": "Must words' weights learn on, where a network of text learns to draw?",
        "arms": ["fused", "fused-ffn", "fused-slowly", "fused-freely"],
        "seeds": 3,
        "note": "The network of text had 1,100 steps, all at the peak of its learning rate. fused "
                "and fused-ffn leave its weights as "
                "they are, slowly trains them on at a tenth of the learning rate, freely at all of "
                "it. "
                "What becomes of its words, where they may change, is not measured.",
        "rivals": [("fused", "fused-ffn"), ("fused-slowly", "fused"), ("fused-freely", "fused")],
        "measures": OF_SHORT,
        "tests": {"deep": ([("fused", "fused-ffn")], ["loss/generate"]),
                  "stay": ([("fused-slowly", "fused"), ("fused-freely", "fused")],
                           ["loss/generate"])},
    },
    "asked": {
        "question": "How should a frozen network be asked for a picture?",
        "arms": ["asked", "asked-by-4", "asked-proj-enc", "asked-by-none"],
        "seeds": 3,
        "note": "By 36 queries through Enc-Proj, one for each token of a picture; by four; through "
                "Proj-Enc; by none: the decoder is told the last states of the prompt itself. The "
                "network that is asked sees, and had 1,100 steps, all at the peak of its learning "
                "rate.",
        "rivals": [("asked", "asked-by-4"), ("asked", "asked-proj-enc"),
                   ("asked", "asked-by-none")],
        "measures": OF_DRAWING,
        "tests": {"asked": ([("asked", "asked-by-4"), ("asked", "asked-proj-enc")],
                            ["loss/generate"])},
    },
    "unlock": {
        "question": "Does who learns to see learn to draw features with fewer rows?",
        "arms": ["features", "features-alone"],
        "seeds": 3,
        "note": "Both have the same rows to draw; features has 22 rows to understand a step, too.",
        "rivals": [("features", "features-alone")],
        "measures": OF_DRAWING,
        "tests": {"unlock": ([("features", "features-alone")], list(OF_DRAWING))},
    },
    "semantic": {
        "question": "Are image tokens that stand for features learned faster?",
        "arms": ["semantic", "pixel"],
        "seeds": 3,
        "note": "Their losses are of other tokens, so what is drawn counts alone. Both see by the "
                "encoder.",
        "rivals": [("semantic", "pixel")],
        "measures": {"summary/toy-GenEval": .02, "toy-GenEval/held-out": .02,
                     "summary/answered": .02},
        "tests": {"semantic": ([("semantic", "pixel")], ["summary/toy-GenEval"])},
    },
    "marks": {
        "question": "Do marks of its own drawings help a network?",
        "arms": ["weak", "marked", "marked-shuffled", "marked-true"],
        "seeds": 3,
        "note": "4,000 rows about its own drawings join 40,000, and all train on for 400 steps: "
                "marked as the judge has it; each as another is; or, in place of drawings, true "
                "pictures. Drawings are of weak at its end, so 400 steps later than where its "
                "branches begin. In the paper who draws is strong, and GPT-4o marks.",
        "rivals": [("marked", "weak"), ("marked", "marked-shuffled"), ("marked", "marked-true")],
        "measures": OF_SHORT,
        "tests": {"marks": ([("marked", "weak"), ("marked", "marked-shuffled")], SCORES)},
    },
}
