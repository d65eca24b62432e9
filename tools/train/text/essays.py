"""Short paragraphs and letters about anything: a subject goes into sentences that fit many subjects."""

import random

from . import facts

# subject: is it one thing (is) or many (are)
SUBJECTS = {
    "artificial intelligence": "is", "music": "is", "reading": "is", "books": "are", "computers": "are", "the sea": "is", "trees": "are", "animals": "are", "friendship": "is", "school": "is", "science": "is", "art": "is", "sleep": "is", "travel": "is",
    "cooking": "is", "bread": "is", "water": "is", "the internet": "is", "robots": "are", "language models": "are", "programming": "is", "mathematics": "is", "history": "is", "games": "are", "sport": "is", "gardens": "are", "birds": "are", "cats": "are", "dogs": "are",
    "cities": "are", "mountains": "are", "rivers": "are", "trains": "are", "letters": "are", "stories": "are", "dreams": "are", "time": "is", "money": "is", "work": "is", "food": "is", "winter": "is", "summer": "is", "the moon": "is", "the weather": "is", "open source": "is",
    "machine learning": "is", "fast software": "is", "small models": "are", "health": "is", "honesty": "is", "patience": "is", "technology": "is", "language": "is", "poetry": "is", "silence": "is", "pizza": "is", "tea": "is", "coffee": "is", "space": "is", "energy": "is",
}
FIRST = ["{S} {is} an important part of our lives.", "{S} {is} something that many people think about.", "When I think of {s}, I think of a quiet morning.", "There is much to say about {s}.", "Not everybody likes {s}, but nobody can forget {it}.",
         "People have talked about {s} for a long time.", "{S} {is} more interesting than many people believe."]
REASON = ["With {s} the day becomes a little brighter.", "A child can learn a great deal from {s}.", "{S} can teach us to be patient.", "Some people cannot live without {s}.", "It takes time to understand {s}.", "Old people often tell how different {s} used to be.",
          "In the morning we do not think of {it}, but in the evening we do.", "Much has been written about {it}, and more will be written.", "We should look at {it} closely before we judge.", "Those who know {it} well speak of {it} with care.", "Every day somebody discovers something new about {it}.",
          "It is easy to begin with {it} and hard to become a master."]
SECOND = ["On the other hand, one should not forget the rest of the world.", "Of course there are also problems.", "But too much of a good thing is not good.", "Still, there are many questions.", "However, nobody knows everything about {it}.", "At the same time we must be careful."]
LAST = ["In the end, {s} {is} what we make of {it}.", "That is why {s} {is} worth our time.", "I am sure that {s} will be with us for a long time.", "So let us take good care of {it}.", "And that is the best thing about {s}.", "Perhaps that is enough for today."]
FUTURE = ["The future of {s} is bright.", "The future of {s} is open, and nobody can see it clearly.", "The future of {s} is in our own hands.", "The future of {s} is hard to tell."]

EVENTS = ["the meeting on {day}", "your letter", "the birthday party", "our walk by the river", "the garden", "the new book", "the train on {day}", "the cake", "the holiday", "the concert on {day}"]
LETTER_FIRST = ["Thank you for {event}.", "I am writing to you about {event}.", "I hope that you are well. I would like to ask you about {event}.", "I am sorry that I could not answer earlier. It is about {event}."]
LETTER_MIDDLE = ["I was very glad about it.", "Could you tell me more about it?", "I think that {day} would be a good day for it.", "Please let me know what you think.", "Everything is ready now.", "There is no hurry."]
LETTER_LAST = ["Best wishes,", "Kind regards,", "Yours,", "With love,", "See you soon,"]


def essay(g: random.Random, subject: str | None = None, future: bool = False) -> tuple[str, str]:
    """A subject and a paragraph about it."""
    subject = subject or g.choice(list(SUBJECTS))
    verb = SUBJECTS.get(subject, "is")
    words = {"s": subject, "S": subject[0].upper() + subject[1:], "is": verb, "it": "it" if verb == "is" else "them"}
    sentences = [g.choice(FUTURE if future else FIRST), *g.sample(REASON, g.randrange(1, 4))]
    if g.random() < 0.6:
        sentences += [g.choice(SECOND), *g.sample(REASON, 1)]
    sentences.append(g.choice(LAST))
    return subject, " ".join(dict.fromkeys(sentences)).format(**words)


def letter(g: random.Random) -> tuple[str, str, str]:
    """A receiver, a matter and the letter."""
    receiver, sender = g.sample(facts.NAMES, 2)
    day = g.choice(facts.DAYS)
    event = g.choice(EVENTS).format(day=day)
    body = " ".join([g.choice(LETTER_FIRST).format(event=event), *g.sample(LETTER_MIDDLE, g.randrange(1, 4))]).format(day=day)
    return receiver, event, f"Dear {receiver},\n\n{body}\n\n{g.choice(LETTER_LAST)}\n{sender}"
