"""
exam/files.py: the exam on disk, in the benchmarks' own formats, so that the field's own scripts
can read it. Read it after marks.py; README.md says what each file is.

Files are written over if the run was examined before.
"""
import csv
import json

from PIL import Image

from exam.questions import GENEVAL
from toy.words import dense


def write_drawings(place, prompts, pictures, scenes, verdicts):
    """
    toy-GenEval: a folder a prompt with its record and its pictures, as GenEval wants them, and a
    line a picture as its evaluation writes them. Prompts as from geneval_prompts(), pictures
    (N, S, S, 3) uint8, what the judge saw in them, and what check_all() said.

    results.jsonl has GenEval's six tags; its summary_scores.py averages all tags it finds, so
    dense and held-out stand in extra.jsonl.
    """
    pictures_a_prompt = len(pictures) // len(prompts)
    results, extra = [], []
    for i, (picture, scene) in enumerate(zip(pictures, scenes)):
        number, sample = divmod(i, pictures_a_prompt)
        record, _ = prompts[number]
        folder = place / f"{number:05d}"
        file = folder / "samples" / f"{sample:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
        write_lines(folder / "metadata.jsonl", [json.dumps(record)])

        is_right, reasons = verdicts[i]
        result = {
            "filename": file.relative_to(place).as_posix(),
            "tag": record["tag"],
            "prompt": record["prompt"],
            "correct": is_right,
            "reason": reasons,
            "metadata": json.dumps(record),
            "details": dense(scene),
        }
        lines = results if record["tag"] in GENEVAL else extra
        lines.append(json.dumps(result))
    write_lines(place / "results.jsonl", results)
    write_lines(place / "extra.jsonl", extra)


def write_answers(folder, sets, places, pictures, texts):
    """
    All that was asked but the set "answered", which is no benchmark of the field. sets as from
    question_sets(), places from gather(), pictures of all their scenes, texts of all answers.
    """
    first = 0
    for name, (scenes, groups) in sets.items():
        looked_at = pictures[first:first + len(scenes)]
        first += len(scenes)
        said = {group: texts[places[name, group]] for group in groups}
        if name == "toy-POPE":
            write_pope(folder / "toy-pope", looked_at, groups, said)
        elif name == "toy-MME":
            write_mme(folder / "toy-mme", looked_at, groups, said)
        elif name == "toy-MMVP":
            write_mmvp(folder / "toy-mmvp", looked_at, groups, said)


def write_pope(place, pictures, groups, said):
    """
    toy-POPE: the pictures, and a file of JSON lines a split, with the fields of POPE's own and the
    answer as one more. groups {split: [Question]}, said {split: [text]}.
    """
    write_pictures(place, pictures)
    for split, questions in groups.items():
        lines = []
        for i, (question, text) in enumerate(zip(questions, said[split])):
            line = {
                "question_id": i + 1,
                "image": name_of(question.scene),
                "text": question.text,
                "label": question.answer,
                "answer": on_one_line(text),
            }
            lines.append(json.dumps(line))
        write_lines(place / f"toy_pope_{split}.json", lines)


def write_mme(place, pictures, groups, said):
    """
    toy-MME: the pictures, and a file a subtask in the form of MME's own result files, with tabs
    between picture, question, right answer and answer. groups {subtask: [Question]}, said
    {subtask: [text]}.
    """
    write_pictures(place, pictures)
    for subtask, questions in groups.items():
        lines = []
        for question, text in zip(questions, said[subtask]):
            right = question.answer.capitalize()
            cells = (name_of(question.scene), question.text, right, on_one_line(text))
            lines.append("\t".join(cells))
        write_lines(place / f"{subtask}.txt", lines)


def write_mmvp(place, pictures, groups, said):
    """
    toy-MMVP: the pictures, and one table of questions, with the two offered answers as options (a)
    and (b). groups {pattern: [Question]}, pair after pair, said {pattern: [text]}.
    """
    write_pictures(place, pictures)
    rows = [("Index", "Question", "Options", "Correct Answer", "Answer")]
    for pattern, questions in groups.items():
        for i, (question, text) in enumerate(zip(questions, said[pattern])):
            first = i // 2 * 2  # of the pair: both are offered what is right of either
            a = questions[first].answer
            b = questions[first + 1].answer
            right = "(a)" if question.answer == a else "(b)"
            taken = "(a)" if text == a else "(b)"
            rows.append((len(rows), question.text, f"(a) {a} (b) {b}", right, taken))
    with open(place / "Questions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_pictures(place, pictures):
    place.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(place / name_of(number))


def name_of(number):
    return f"{number:05d}.png"


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def on_one_line(text):
    """A network may say anything, but a line is a record."""
    return " ".join(text.split())
