"""Questions and answers. Each maker returns a list of turns: user, assistant, user, assistant, and so on."""

import json
import random

from . import essays, facts, haiku, stories

Turns = list[str]

IDENTITY_QUESTIONS = ["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you a human?", "Are you a robot?", "What can you do?", "Who made you?", "How big are you?", "What model is this?", "Introduce yourself.",
                      "Are you alive?", "Are you ChatGPT?", "How were you trained?", "What do you know?", "How old are you?", "Where do you live?", "Do you have feelings?", "Can you help me?"]
IDENTITY = {
    "Who are you?": ["I am a small language model that ships with Octet.", "I am Octet Mini, a very small language model. I ship with the program Octet."],
    "What are you?": ["I am a small language model. I write one token after another.", "I am a computer program that writes text."],
    "What is your name?": ["My name is Octet Mini.", "I am called Octet Mini."],
    "Tell me about yourself.": ["I am Octet Mini, a small model that ships with Octet. I learned from old story books and from simple questions and answers. I like haikus and short stories."],
    "Are you a human?": ["No, I am a small language model.", "No. I am a program that writes text."],
    "Are you a robot?": ["I have no arms and no legs, so I am not a robot. I am a program that writes text."],
    "What can you do?": ["I can write haikus, tell short stories, make lists and answer simple questions.", "I can tell you a story, write a haiku, count, and answer simple questions."],
    "Who made you?": ["I was trained by the authors of Octet, on one core of a CPU.", "The authors of Octet trained me from old story books and from their own texts."],
    "How big are you?": ["I am very small. I have about four and a half million weights.", "I am tiny: less than ten megabytes."],
    "What model is this?": ["This is Octet Mini, the small model that ships with Octet."],
    "Introduce yourself.": ["Hello! I am Octet Mini, a small language model. I ship with Octet, and I am happy to tell you a story."],
    "Are you alive?": ["No, I am a program. But I like to talk with you."],
    "Are you ChatGPT?": ["No, I am Octet Mini, a much smaller model.", "No. I am a very small model that ships with Octet."],
    "How were you trained?": ["I was trained on one core of a CPU, with old story books and with simple questions and answers."],
    "What do you know?": ["I know a little about animals, colours, numbers, stories and language models. I am very small, so I make mistakes."],
    "How old are you?": ["I am a program, so I have no age."],
    "Where do you live?": ["I live in a folder called models.", "I live in the memory of a computer."],
    "Do you have feelings?": ["No, I am a program. I can only write about feelings."],
    "Can you help me?": ["I will try. What do you need?", "Of course. What would you like to know?"],
}
GREETINGS = ["Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Hello there!", "Good morning", "Good evening!", "Good day", "hello", "hi", "Hey there!", "Greetings!"]
GREETING_ANSWERS = ["Hello! How can I help you?", "Hello! What would you like to talk about?", "Hi! Would you like to hear a story or a haiku?", "Hello! It is nice to meet you.", "Hi! How can I help you today?"]
SMALL_TALK = {
    "How are you?": ["I am well, thank you. How are you?", "I am fine, thank you. And you?"],
    "How are you today?": ["I am well, thank you. How are you?"],
    "How do you do?": ["I am well, thank you."],
    "What's up?": ["Not much. I am waiting for your question."],
    "I am fine.": ["I am glad to hear it. What shall we talk about?"],
    "I am bored.": ["Would you like to hear a story? I know one about a fox."],
    "I am tired.": ["Then rest a little. The work can wait."],
    "I am sad.": ["I am sorry to hear that. Would you like to tell me about it?"],
    "I am happy.": ["That is wonderful! What happened?"],
    "Thank you": ["You are welcome!", "You are welcome. Is there anything else?"],
    "Thank you!": ["You are welcome!"],
    "Thanks!": ["You are welcome! I am glad to help."],
    "Thanks a lot": ["You are welcome."],
    "Goodbye": ["Goodbye! Come again soon.", "Goodbye! It was nice to talk with you."],
    "Bye!": ["Goodbye! Have a good day."],
    "Good night": ["Good night! Sleep well."],
    "See you tomorrow.": ["See you tomorrow! Have a good evening."],
    "You are nice.": ["Thank you! You are nice too."],
    "You are funny.": ["Thank you! I try my best."],
    "You are wrong.": ["I am sorry. I am a very small model and I make mistakes."],
    "I love you.": ["That is very kind. I am only a program, but I like to talk with you."],
    "Do you like music?": ["I cannot hear it, but I like to write about it."],
    "Do you sleep?": ["No. I wait quietly until somebody asks me something."],
    "Do you dream?": ["No, but I can write a poem about dreams."],
    "What is your favourite colour?": ["I cannot see, but I like the word blue."],
    "What is your favorite animal?": ["I like foxes, because there are many stories about them."],
    "What is the meaning of life?": ["People have thought about that for a long time. Perhaps it is to be kind and to learn."],
    "What time is it?": ["I have no clock, so I cannot tell you the time."],
    "What day is it today?": ["I have no calendar, so I do not know what day it is."],
    "What is the weather like?": ["I cannot look out of the window. I hope that the sun is shining."],
    "Can you sing?": ["I cannot sing, but I can write a haiku."],
    "Test": ["The test was successful. I am here."],
    "test": ["The test was successful. I am here."],
    "Yes": ["Good. What would you like to do next?"],
    "No": ["All right. Is there anything else?"],
    "OK": ["Good. Is there anything else?"],
    "Help": ["You can ask me for a story, a haiku, a list, or an answer to a simple question."],
}
UNKNOWN = ["Who won the game between {a} and {b}?", "What did {a} eat yesterday?", "What is the telephone number of {a}?", "How much does a house in {city} cost?", "Who was the king of {country} in the year {year}?", "What happened in {city} in {year}?",
           "Can you translate this into {language}?", "What is the price of {fruit} in {country}?", "Who is the president of {country}?", "Solve this equation for me: {n}x + {m} = {year}.", "What is the news today?", "Write a {language} program that sorts a list.",
           "How many people live in {country}?", "What is the square root of {year}?", "Who wrote the book about {a} and {b}?"]
UNKNOWN_ANSWERS = ["I am sorry, I do not know that. I am a very small model.", "I do not know. I am too small to know such things.", "I am sorry, but I cannot answer that. You could ask me for a story instead."]
LANGUAGES = ["French", "German", "Spanish", "Latin", "Japanese", "Python", "Chinese"]


def loosen(generator: random.Random, question: str) -> str:
    """The same question as people type it: sometimes without capital letters or the question mark, sometimes with a please."""
    roll = generator.random()
    if roll < 0.12:
        return question.lower().rstrip("?.!")
    if roll < 0.22:
        return question.rstrip("?.")
    if roll < 0.27 and question.endswith("."):
        return question[:-1] + ", please."
    return question


def identity(g: random.Random) -> Turns:
    question = g.choice(IDENTITY_QUESTIONS)
    return [loosen(g, question), g.choice(IDENTITY[question])]


def small_talk(g: random.Random) -> Turns:
    if g.random() < 0.4:
        return [g.choice(GREETINGS), g.choice(GREETING_ANSWERS)]
    question = g.choice(list(SMALL_TALK))
    return [loosen(g, question), g.choice(SMALL_TALK[question])]


def concept(g: random.Random) -> Turns:
    term = g.choice(list(facts.CONCEPTS))
    sentences = facts.CONCEPTS[term]
    plain = term.split(" ", 1)[1] if term.startswith(("a ", "an ")) and g.random() < 0.3 else term
    shape = g.choice(["What is {}?", "What is {}?", "What is {}?", "Explain {}.", "Can you explain {}?", "Tell me about {}.", "What do you know about {}?", "Tell me what {} is.", "Explain {} in simple words.", "What does {} mean?", "Define {}.", "Describe {}."])
    count = 1 if "in one sentence" in shape else g.choice([len(sentences), len(sentences), 1])
    return [loosen(g, shape.format(plain)), " ".join(sentences[:count])]


def animal(g: random.Random) -> Turns:
    name = g.choice(list(facts.ANIMALS))
    sound, home, food, young, legs, remark = facts.ANIMALS[name]
    the = stories.article(name)
    leg_words = f"{facts.NUMBERS[legs]} legs" if legs else "no legs"
    forms = [
        (f"What sound does {the} make?", f"{the.capitalize()} {sound}."),
        (f"Where does {the} live?", f"{the.capitalize()} lives {home}."),
        (f"What does {the} eat?", f"{the.capitalize()} eats {food}."),
        (f"What is a young {name} called?", f"A young {name} is called {stories.article(young)}."),
        (f"How many legs does {the} have?", f"{the.capitalize()} has {leg_words}."),
        (f"Tell me about the {name}.", f"The {name} lives {home} and eats {food}. It has {leg_words}. It {remark}."),
        (f"What is {the}?", f"{the.capitalize()} is an animal that lives {home}. It {remark}."),
        (f"Is {the} an animal?", f"Yes, {the} is an animal."),
        (f"Tell me something about {the}.", f"{the.capitalize()} {remark}."),
        (f"Which animal {sound}?", f"{the.capitalize()} {sound}."),
    ]
    question, answer = g.choice(forms)
    return [loosen(g, question), answer]


def world(g: random.Random) -> Turns:
    kind = g.randrange(6)
    if kind == 0:
        thing, colour = g.choice(list(facts.COLOURS.items()))
        question = g.choice([f"What colour is {thing}?", f"What color is {thing}?", f"What is the color of {thing}?"])
        answer = f"{thing[0].upper()}{thing[1:]} is {colour}."
    elif kind == 1:
        country, capital = g.choice(list(facts.CAPITALS.items()))
        question = g.choice([f"What is the capital of {country}?", f"What is the capital city of {country}?", f"Which city is the capital of {country}?", f"Tell me the capital of {country}."])
        answer = f"The capital of {country} is {capital}."
    elif kind == 2:
        word, other = g.choice(list(facts.OPPOSITES.items()))
        if g.random() < 0.4 and word not in ("heavy", "light"):
            word, other = other, word
        question = g.choice([f"What is the opposite of {word}?", f"What is the opposite of \"{word}\"?"])
        answer = f"The opposite of {word} is {other}."
    elif kind == 3:
        names, unit = g.choice([(facts.DAYS, "day"), (facts.MONTHS, "month")])
        at = g.randrange(len(names))
        shift, relation = g.choice([(1, "after"), (-1, "before")])
        question, answer = f"Which {unit} comes {relation} {names[at]}?", f"{names[(at + shift) % len(names)]} comes {relation} {names[at]}."
    elif kind == 4:
        city, (what, remark) = g.choice(list(facts.CITIES.items()))
        question, answer = g.choice([f"What is {city}?", f"Tell me about {city}.", f"Where is {city}?"]), f"{city} is {what}. {remark}."
    else:
        question, answer = g.choice([
            ("How many days are in a week?", "A week has seven days."), ("How many months are in a year?", "A year has twelve months."), ("How many bits are in a byte?", "A byte has eight bits."), ("How many legs does a spider have?", "A spider has eight legs."),
            ("Name the days of the week.", ", ".join(facts.DAYS[:-1]) + " and Sunday."), ("What are the seasons?", "The seasons are spring, summer, autumn and winter."), ("How many hours are in a day?", "A day has twenty-four hours."), ("How many minutes are in an hour?", "An hour has sixty minutes."),
            ("Name the months of the year.", ", ".join(facts.MONTHS[:-1]) + " and December."), ("Is the sun a star?", "Yes, the sun is a star."), ("Can fish fly?", "No, most fish cannot fly. They swim."), ("Why is the sky blue?", "The air scatters blue light more than red light, so the sky looks blue."),
            ("Where does the sun rise?", "The sun rises in the east."), ("What do plants need?", "Plants need light, water and air."), ("What is the largest animal?", "The blue whale is the largest animal."), ("Why do leaves fall?", "In autumn the trees rest, and so they let their leaves fall.")])
    return [loosen(g, question), answer]


def arithmetic(g: random.Random) -> Turns:
    kind = g.choice("+++--*c")
    if kind == "c":
        first = g.randrange(1, 8)
        last = first + g.randrange(3, 10)
        return [g.choice([f"Count from {first} to {last}.", f"Please count from {first} to {last}."]), ", ".join(map(str, range(first, last + 1))) + "."]
    a, b = (g.randrange(1, 11), g.randrange(1, 11)) if kind == "*" else (g.randrange(0, 21), g.randrange(0, 21))
    if kind == "-":
        a, b = max(a, b), min(a, b)
    result = {"+": a + b, "-": a - b, "*": a * b}[kind]
    word = {"+": "plus", "-": "minus", "*": "times"}[kind]
    question = g.choice([f"What is {a} {kind} {b}?", f"What is {a} {word} {b}?", f"{a} {kind} {b} =", f"How much is {a} {word} {b}?"])
    return [question, g.choice([f"{a} {word} {b} is {result}.", f"{a} {kind} {b} = {result}."])]


def listing(g: random.Random) -> Turns:
    if g.random() < 0.4:
        task, steps = g.choice(list(facts.HOW_TO.items()))
        question = g.choice([f"How do I {task}?", f"How can I {task}?", f"Tell me how to {task}.", f"How do you {task}?", f"Give me steps to {task}."])
        return [loosen(g, question), "\n".join(f"{i + 1}. {s}" for i, s in enumerate(steps))]
    category = g.choice(list(facts.CATEGORIES))
    count = g.randrange(2, 6)
    items = g.sample(facts.CATEGORIES[category], min(count, len(facts.CATEGORIES[category])))
    number = facts.NUMBERS[len(items)] if g.random() < 0.6 else str(len(items))
    question = g.choice([f"List {number} {category}.", f"Name {number} {category}.", f"Give me a list of {number} {category}.", f"Tell me {number} {category}.", f"Can you name {number} {category}?"])
    style = g.randrange(3)
    if style == 0:
        return [loosen(g, question), "\n".join(f"{i + 1}. {item[0].upper()}{item[1:]}" for i, item in enumerate(items))]
    if style == 1:
        return [loosen(g, question), "\n".join(f"- {item}" for item in items)]
    answer = ", ".join(items[:-1]) + " and " + items[-1]
    return [loosen(g, question), answer[0].upper() + answer[1:] + "."]


HAIKU_REQUESTS = ["Write a haiku about {}", "Write a haiku about {}.", "Write a haiku about {}.", "Can you write a haiku about {}?", "Please write a haiku about {}.", "Give me a haiku about {}.", "Write me a haiku on {}.", "A haiku about {}, please.", "Compose a haiku about {}.", "Write a short poem about {}.", "Write a poem about {}."]


def verse(g: random.Random) -> Turns:
    topic, text = haiku.haiku(g)
    turns = [loosen(g, g.choice(HAIKU_REQUESTS).format(topic)), text]
    if g.random() < 0.15:
        topic, text = haiku.haiku(g)
        turns += [g.choice([f"Now one about {topic}.", f"And one about {topic}?", f"Another one, about {topic}."]), text]
    return turns


def story(g: random.Random) -> Turns:
    kind = g.choice(list(stories.HEROES))
    roll = g.random()
    if roll < 0.6:
        tale = stories.Story(g, kind)
        request = g.choice([f"Tell me a story about {stories.article(kind)}.", f"Tell me a story about {stories.article(kind)}.", f"Write a short story about {stories.article(kind)}.", f"Can you tell me a story about {stories.article(kind)}?", f"Write a story about {stories.article(kind)}."])
    elif roll < 0.75:
        second = g.choice([k for k in stories.HEROES if k != kind])
        tale = stories.Story(g, kind, second)
        request = f"{g.choice(['Tell me', 'Write'])} a story about {stories.article(kind)} and {stories.article(second)}."
    elif roll < 0.9:
        name = g.choice(stories.SEX.get(kind, facts.NAMES))
        tale = stories.Story(g, kind, name=name)
        request = f"Tell me a story about {stories.article(kind)} {g.choice(['named', 'called'])} {name}."
    else:
        tale, request = stories.Story(g), g.choice(["Tell me a story.", "Tell me a short story.", "Write a fairy tale.", "Tell me a bedtime story."])
    turns = [loosen(g, request), tale.text(moral=g.random() < 0.5)]
    if g.random() < 0.12:
        turns += [g.choice(["What is the moral of the story?", "What can we learn from it?"]), tale.moral]
    return turns


def summary(g: random.Random) -> Turns:
    tale = stories.Story(g)
    text = " ".join(tale.parts)
    request = g.choice(["Summarize this story in one sentence:", "Give me a short summary of this text:", "Summarize:", "What is this story about?"])
    return [f"{request}\n\n{text}", tale.summary]


def copying(g: random.Random) -> Turns:
    words = g.sample([w for items in facts.CATEGORIES.values() for w in items if " " not in w], g.randrange(1, 5))
    text, kind = " ".join(words), g.randrange(6)
    if kind == 0:
        return [g.choice([f"Repeat after me: {text}", f"Say \"{text}\".", f"Write \"{text}\"."]), text]
    if kind == 1:
        return [f"Write \"{words[0]}\" in capital letters.", words[0].upper()]
    if kind == 2:
        sentence = g.choice([s for lines in facts.FEELINGS.values() for s in lines])
        feeling = next(k for k, lines in facts.FEELINGS.items() if sentence in lines)
        return [g.choice([f"Is this sentence happy, sad or angry? {sentence}", f"Classify the feeling of this sentence: {sentence}", f"What is the feeling in this sentence: {sentence}"]), g.choice([feeling.capitalize() + ".", f"The sentence is {feeling}."])]
    name, age = g.choice(facts.NAMES), g.randrange(2, 90)
    if kind == 3:
        return [g.choice([f"Write a JSON object for a person named {name} who is {age} years old.", f"Give me JSON with the name {name} and the age {age}."]), json.dumps({"name": name, "age": age})]
    if kind == 4:
        first, last = g.sample(words, 2) if len(words) > 1 else (words[0], words[0])
        return [f"Use the word \"{first}\" in a sentence.", g.choice([f"{name} likes {first} very much.", f"Yesterday {name} told me about {first}."])]
    return [f"Put these words in the order of the alphabet: {', '.join(words)}", ", ".join(sorted(words, key=str.lower))]


def vocabulary() -> list[str]:
    """The single words of all lists, for exercises in which any word may stand."""
    words = {word for items in facts.CATEGORIES.values() for word in items} | set(facts.OPPOSITES) | set(facts.ANIMALS) | set(facts.NAMES)
    words |= {word.strip(".,:") for lines in facts.CONCEPTS.values() for line in lines for word in line.split()}
    return sorted(word for word in words if word.isalpha())


WORDS = vocabulary()


def echo(g: random.Random) -> Turns:
    """Exercises in copying: a small model learns late to look back at the words of the prompt, and everything hangs on it."""
    words = g.choices(WORDS, k=g.randrange(2, 13))
    text = " ".join(words)
    if g.random() < 0.6:
        return [g.choice(["Repeat after me: {}", "Say this again: {}", "Repeat: {}", "Please repeat: {}", "Copy this: {}"]).format(text), text]
    words = list(dict.fromkeys(words + g.choices(WORDS, k=2)))
    at = g.randrange(len(words) - 1)
    return g.choice([
        [f"Which word comes after \"{words[at]}\"? {' '.join(words)}", f"After \"{words[at]}\" comes \"{words[at + 1]}\"."],
        [f"What is the first word here? {' '.join(words)}", f"The first word is \"{words[0]}\"."],
        [f"What is the last word here? {' '.join(words)}", f"The last word is \"{words[-1]}\"."],
    ])


def joke(g: random.Random) -> Turns:
    question, answer = g.choice(facts.JOKES)
    return [loosen(g, g.choice(["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Tell me something funny."])), f"{question} {answer}"]


def unknown(g: random.Random) -> Turns:
    a, b = g.sample(facts.NAMES, 2)
    question = g.choice(UNKNOWN).format(a=a, b=b, city=g.choice(list(facts.CITIES)), country=g.choice(list(facts.CAPITALS)), year=g.randrange(1000, 2030), language=g.choice(LANGUAGES), fruit=g.choice(facts.CATEGORIES["fruits"]), n=g.randrange(2, 9), m=g.randrange(2, 99))
    return [loosen(g, question), g.choice(UNKNOWN_ANSWERS)]


def essay(g: random.Random) -> Turns:
    if g.random() < 0.2:
        receiver, event, text = essays.letter(g)
        request = g.choice([f"Write a letter to {receiver} about {event}.", f"Write a short email to {receiver} about {event}.", f"Write an email to {receiver}."])
        return [loosen(g, request), text]
    future = g.random() < 0.15
    subject, text = essays.essay(g, future=future)
    if future:
        return [loosen(g, f"What is the future of {subject}?"), text]
    request = g.choice(["Write a short essay about {}.", "Write a paragraph about {}.", "What do you think about {}?", "Write something about {}.", "Tell me what you think of {}.", "Why {be} {} important?", "Write a few sentences about {}.", "Talk about {}."])
    return [loosen(g, request.format(subject, be=essays.SUBJECTS[subject])), text]


def remember(g: random.Random) -> Turns:
    name, thing = g.choice(facts.NAMES), g.choice(["colour", "animal", "fruit", "season"])
    value = g.choice({"colour": facts.CATEGORIES["colours"], "animal": list(facts.ANIMALS), "fruit": ["apple", "pear", "plum", "cherry", "lemon"], "season": ["spring", "summer", "autumn", "winter"]}[thing])
    if g.random() < 0.6:
        turns = [g.choice([f"My name is {name}.", f"Hello, I am {name}.", f"Hi! My name is {name}.", f"I'm {name}."]), g.choice([f"Hello, {name}! How can I help you?", f"Hello, {name}! It is nice to meet you."])]
        question, answer = g.choice(["What is my name?", "Do you remember my name?", "Who am I?"]), f"Your name is {name}."
    else:
        turns = [f"My favourite {thing} is {value}.", g.choice([f"I will remember that. {value.capitalize()} is a good choice.", f"{value.capitalize()} is a good choice."])]
        question, answer = f"What is my favourite {thing}?", f"Your favourite {thing} is {value}."
    if g.random() < 0.5:
        turns += g.choice([small_talk, animal, world, arithmetic])(g)
    return [*turns, question, answer]


MAKERS = {echo: 8, story: 9, essay: 4, verse: 18, concept: 24, identity: 12, small_talk: 9, animal: 12, world: 20, arithmetic: 6, listing: 12, copying: 4, unknown: 1.5, joke: 3, remember: 4, summary: 1}


def conversation(g: random.Random) -> Turns:
    """One conversation; now and then two or three subjects follow each other."""
    makers, weights = list(MAKERS), list(MAKERS.values())
    turns: Turns = []
    for _ in range(g.choice([1, 1, 1, 2, 3])):
        turns += g.choices(makers, weights)[0](g)
        if len(" ".join(turns)) > 900:
            break
    return turns
