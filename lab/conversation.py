"""
lab/conversation.py: draws what you write and answers what you ask, line by line.

A drawn picture stays what the network made it, tokens: the network answers about them without their
ever becoming pixels and tokens again. Not so if it has eyes other than tokens. Then the picture
must be decoded for them first, which is what two encoders cost.
"""
import re
import sys
from pathlib import Path

from PIL import Image

from sample import answer, draw, talk_row
from tools.flags import printable
from toy.own import read_picture

HELP = ("a sentence draws; ?question asks about the last picture; !file.png loads one; "
        "Ctrl-D leaves")
ROOM = 21  # tokens of the context that are kept free for an answer


class Conversation:
    """The picture that is talked about, and what was said about it."""

    def __init__(self, folder, model, enc, tok, canvas, seed, sampling, task):
        self.folder = Path(folder) / "talk"  # where drawn pictures go
        self.model = model
        self.enc = enc
        self.tok = tok
        self.canvas = canvas
        self.seed = seed
        self.sampling = sampling
        self.task = task    # what the network was trained for
        drawn = [int(file.stem) for file in self.folder.glob("*.png") if file.stem.isdecimal()]
        self.n_drawn = max(drawn, default=0)
        self.codes = None   # (1, n_image)
        self.pixels = None  # (1, S, S, 3), if there are any
        self.talk = []      # [(question, answer), ...]

    def draw(self, prompt):
        """A new picture, of which nothing has been said yet. Raises ValueError if it cannot be."""
        self.refuse("understand", "it cannot draw; load a picture with !file.png")
        check_prompt(prompt, self.enc, self.model)
        self.codes = draw(self.model, self.enc, [prompt], seed=self.seed + self.n_drawn,
                          **self.sampling)
        self.pixels = None
        self.talk = []
        self.n_drawn += 1
        picture = self.tok.decode(self.codes)[0]
        file = self.folder / f"{self.n_drawn:03d}.png"
        show(picture)
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(file)
        print(file)

    def load(self, file):
        """A picture from a file, seen as the image tokenizer keeps it. May raise ValueError."""
        self.pixels = load_picture(file, self.canvas)[None]
        self.codes = self.tok.encode(self.pixels)
        self.talk = []
        show(self.tok.decode(self.codes)[0])

    def ask(self, question):
        """Answers, remembering what was said before. Raises ValueError if there is no picture."""
        self.refuse("generate", "it cannot answer; write a sentence, and it draws")
        if self.codes is None:
            raise ValueError("there is no picture yet; draw one with a sentence, "
                             "or load one with !file.png")
        talk = self.as_fits([*self.talk, (question, "")])
        if self.pixels is None and self.model.eyes is not None:
            self.pixels = self.tok.decode(self.codes)
            see = self.model.config.see
            print(f"(the tokens it drew are decoded to pixels, for its {see} to see)")
        said = answer(self.model, self.enc, self.codes, [talk], self.pixels)[0]
        self.talk = talk[:-1] + [(question, said)]
        print(said)

    def refuse(self, task, why):
        """Raises ValueError if the network was trained for this task alone."""
        if self.task == task:
            raise ValueError(f"this network was trained with --task {task}: {why}")

    def as_fits(self, talk):
        """A dialogue without its oldest turns, as many as the context is too short for."""
        longest = self.model.config.block_size - ROOM
        while len(talk) > 1:
            ids, _ = talk_row(self.model, self.enc, self.codes[0], talk)
            if len(ids) <= longest:
                break
            talk = talk[1:]
        return talk


def converse(folder, model, enc, tok, canvas, seed, sampling, task="both"):
    """Takes lines from standard input until its end. sampling: flags for sample.draw()"""
    conversation = Conversation(folder, model, enc, tok, canvas, seed, sampling, task)
    print(HELP)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        try:
            if line.startswith("?"):
                conversation.ask(line[1:].strip())
            elif line.startswith("!"):
                conversation.load(line[1:].strip())
            else:
                conversation.draw(line)
        except KeyboardInterrupt:
            print()
            return
        except OSError as e:  # of the folder that drawn pictures go to
            name = printable(str(e.filename or conversation.folder))
            print(f"{name}: cannot be written ({e.strerror or e}); it is not kept")
        except ValueError as e:
            print(f"{printable(line[:60]) or 'the prompt'}: {e}")


def show(picture):
    """A picture (S, S, 3) in the terminal, two pixels a character, where it can."""
    if not sys.stdout.isatty():
        return
    for above, below in zip(picture[::2].tolist(), picture[1::2].tolist()):
        line = ""
        for (r, g, b), (r2, g2, b2) in zip(above, below):
            line += f"\033[38;2;{r};{g};{b}m\033[48;2;{r2};{g2};{b2}m\u2580"
        print(line + "\033[0m")


def load_picture(file, canvas):
    """A file as the network sees it; says so if that takes a change. Raises ValueError if not."""
    picture = read_picture(file, canvas)
    with Image.open(file) as original:
        width, height = original.size
        mode = original.mode
    if (width, height) != (canvas, canvas) or mode != "RGB":
        print(f"{printable(file)}: {width} x {height} {mode}, seen as {canvas} x {canvas} RGB",
              file=sys.stderr)
    return picture


def check_prompt(prompt, enc, model):
    """Raises ValueError if a prompt cannot be drawn; says which of its words are new."""
    c = model.config
    read = 1 if c.draw == "tokens" else 2  # besides: <|boi|>, and else the last token, too
    too_many = len(enc.encode_ordinary(prompt)) + read + c.n_image - c.block_size
    if not prompt.strip():
        raise ValueError("is empty; say what to draw")
    if too_many > 0:
        raise ValueError(f"{too_many} tokens too long; shorten it")
    new = [word for word in re.findall(r"\w+", prompt) if not is_known(word, enc)]
    if new:
        print(f"note: new or rare to this network: {', '.join(new)}", file=sys.stderr)


def is_known(word, enc):
    """What was frequent in training is one token, with the space before it or without."""
    for spelling in (word, " " + word):
        is_byte = len(spelling) == 1  # is one token anyhow
        if not is_byte and len(enc.encode_ordinary(spelling)) == 1:
            return True
    return False
