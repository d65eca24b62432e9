"""Short stories with a beginning, a middle and an end, put together from parts that fit each other."""

import random

from .facts import BOYS, GIRLS, NAMES

# kind: (article and kind, what it is like, where it lives, a thing that it can do)
HEROES = {
    "fox": ("clever", "in a den at the edge of the forest", "run without a sound"),
    "rabbit": ("small", "in a burrow under a hill", "jump over the brook"),
    "mouse": ("tiny", "in a hole behind the kitchen wall", "slip through the smallest gap"),
    "bear": ("big brown", "in a cave in the mountains", "lift heavy stones"),
    "cat": ("grey", "in a house by the sea", "climb any wall"),
    "dog": ("friendly", "on a farm", "smell what nobody else could smell"),
    "owl": ("wise old", "in a hollow oak", "see in the dark"),
    "frog": ("green", "beside a quiet pond", "swim very well"),
    "duck": ("young", "on a blue lake", "swim and fly"),
    "hedgehog": ("shy", "under a heap of leaves", "roll into a ball"),
    "squirrel": ("quick", "in a tall pine tree", "climb to the very top"),
    "crow": ("black", "on the roof of an old church", "fly very high"),
    "robot": ("little", "in a workshop full of tools", "remember everything"),
    "dragon": ("young", "on a lonely mountain", "light a fire with one breath"),
    "girl": ("brave", "in a small village", "whistle louder than anybody"),
    "boy": ("curious", "in a house near the woods", "run very fast"),
    "king": ("kind old", "in a white castle", "listen well"),
    "princess": ("merry", "in a tower by the river", "solve any riddle"),
    "fisherman": ("poor", "in a hut on the beach", "row against the wind"),
    "baker": ("cheerful", "in a town with narrow streets", "bake the best bread"),
    "turtle": ("slow", "by the warm sea", "walk for days without a rest"),
    "lion": ("proud", "in the yellow grass", "roar like thunder"),
    "sheep": ("woolly", "on a green meadow", "find the best grass"),
    "computer": ("small", "on a desk by the window", "count faster than anybody"),
}
SEX = {"girl": GIRLS, "princess": GIRLS, "boy": BOYS, "king": BOYS, "fisherman": BOYS}
THINGS = ["golden key", "red ball", "little bell", "silver ring", "old map", "warm coat", "blue stone", "letter", "lantern", "wooden boat", "book of songs", "loaf of bread", "small drum", "basket of apples"]
PLACES = ["the forest", "the old bridge", "the mountain", "the river", "the market", "the dark cave", "the wide meadow", "the mill", "the garden", "the seashore", "the great oak"]
WEATHER = ["One bright morning", "One cold evening", "One day in spring", "One rainy afternoon", "On the first day of winter", "One night at full moon", "Early one morning", "One windy day"]
FEAR = ["the dark", "deep water", "loud thunder", "high places", "strangers", "the big storm", "making mistakes"]
OPENINGS = ["Once upon a time there was a {like} {kind} named {name} who lived {home}.", "There was once a {like} {kind} called {name}. {He} lived {home}.",
            "A {like} {kind} named {name} lived {home}.", "Long ago, a {like} {kind} lived {home}. {His} name was {name}.", "{name} was a {like} {kind} who lived {home}."]
JOY = ["{name} laughed for joy.", "{name} was so happy that {he} danced.", "{name} had never been so glad.", "{name} smiled all the way home."]
ENDINGS = ["And from that day on they were good friends.", "And they lived happily ever after.", "That night {name} slept very well.", "After that, {name} was never lonely again.", "And if they have not moved away, they live there still."]
MORALS = {
    "lost": ["So it is good to ask for help.", "What is lost can often be found again.", "A friend finds what the eye does not see."],
    "fear": ["To be brave is to go on although you are afraid.", "Even a small heart can be brave."],
    "share": ["What we share grows larger.", "A gift makes two people happy."],
    "boast": ["Those who boast often fall.", "Slow and steady wins the race.", "It is better to do than to talk."],
    "help": ["One good turn deserves another.", "No friend is too small to help."],
    "learn": ["Practice makes perfect.", "Nobody learns without making mistakes."],
    "wish": ["Be careful what you wish for.", "The best things were at home all the time."],
}
SKILLS = ["sing", "dance", "read", "swim", "paint", "play the flute", "skate", "write poems"]


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


class Story:
    """One story; `parts` are its sentences, `summary` is one sentence."""

    def __init__(self, generator: random.Random, kind: str | None = None, second: str | None = None, name: str | None = None):
        self.pick = generator.choice
        self.kind = kind or self.pick(list(HEROES))
        like, home, can = HEROES[self.kind]
        self.name = name or self.pick(SEX.get(self.kind, NAMES))
        female = self.name in GIRLS
        self.friend_kind = second or self.pick([k for k in HEROES if k != self.kind])
        self.friend = self.pick([n for n in SEX.get(self.friend_kind, NAMES) if n != self.name])
        he, his, him = ("she", "her", "her") if female else ("he", "his", "him")
        self.words = {
            "name": self.name, "kind": self.kind, "like": like, "home": home, "can": can, "he": he, "his": his, "him": him, "He": he.title(), "His": his.title(),
            "friend": self.friend, "friend_kind": self.friend_kind, "friend_like": HEROES[self.friend_kind][0], "friend_can": HEROES[self.friend_kind][2],
            "thing": self.pick(THINGS), "place": self.pick(PLACES), "fear": self.pick(FEAR), "skill": self.pick(SKILLS), "when": self.pick(WEATHER),
        }
        self.words["a_friend"] = article(f"{self.words['friend_like']} {self.friend_kind}")
        self.words["a_thing"] = article(self.words["thing"])
        self.plot = self.pick(list(MORALS))
        self.parts = [self.fill(self.pick(OPENINGS)), *map(self.fill, getattr(self, self.plot)())]
        self.moral = self.pick(MORALS[self.plot])
        self.ending = self.fill(self.pick(ENDINGS))

    def fill(self, text: str) -> str:
        text = text.format(**self.words)
        return text.replace("A old", "An old").replace(" a old", " an old")

    def text(self, moral: bool = True) -> str:
        """The story in two or three paragraphs."""
        middle = len(self.parts) // 2
        paragraphs = [" ".join(self.parts[:middle]), " ".join([*self.parts[middle:], self.ending])]
        return "\n\n".join(paragraphs + ([self.moral] if moral else []))

    def lost(self) -> list[str]:
        self.summary = self.fill("{name} the {kind} loses {a_thing} and finds it again with the help of {friend} the {friend_kind}.")
        return [
            self.pick(["{He} had {a_thing}, and {he} loved it very much.", "The dearest thing that {he} had was {a_thing}."]),
            self.pick(["{when} {he} looked for it, but the {thing} was gone.", "{when} the {thing} was not in its place."]),
            self.pick(["{name} looked under the bed and behind the door, but {he} could not find it.", "{He} searched everywhere, but in vain.", "{He} sat down and began to cry."]),
            "Then {a_friend} came by. \"Why are you so sad?\" asked {friend}.",
            "\"I have lost my {thing},\" said {name}.",
            self.pick(["\"Do not cry,\" said {friend}. \"I can {friend_can}. I will help you.\"", "\"Two see more than one,\" said {friend}. \"Let us look together.\""]),
            self.pick(["They went to {place} and looked at every stone.", "Together they walked as far as {place}.", "They asked everybody they met on the way to {place}."]),
            self.pick(["And there lay the {thing}, shining in the grass.", "There, under a leaf, lay the {thing}."]),
            self.pick(JOY), self.pick(["\"Thank you, {friend}!\" {he} said.", "\"You are a true friend,\" {he} said to {friend}."]),
        ]

    def fear(self) -> list[str]:
        self.summary = self.fill("{name} the {kind} is afraid of {fear}, but becomes brave to save {friend}.")
        return [
            self.pick(["{He} could {can}, but {he} was afraid of {fear}.", "{name} was afraid of one thing only, and that was {fear}."]),
            self.pick(["The others laughed at {him}.", "{He} told nobody about it."]),
            self.pick(["{when} {he} heard a cry from {place}.", "{when} somebody called for help near {place}."]),
            self.pick(["It was {friend}, {a_friend}.", "{friend}, {a_friend}, was caught there and could not get away."]),
            self.pick(["{name} trembled. \"If I do not go, nobody will,\" {he} thought.", "\"I am afraid,\" thought {name}, \"but {friend} is more afraid than I am.\""]),
            self.pick(["So {he} took a deep breath and ran.", "{He} closed {his} eyes for a moment, and then {he} went."]),
            self.pick(["It was not easy, but at last {friend} was safe.", "{He} pulled with all {his} strength, and {friend} was free."]),
            "\"You are the bravest {kind} I know,\" said {friend}.",
            self.pick(["\"I was afraid the whole time,\" said {name}, and they both laughed.", "And {name} found that {fear} did not seem so terrible any more."]),
        ]

    def share(self) -> list[str]:
        self.summary = self.fill("{name} the {kind} shares what {he} has with {friend} and gets a friend in return.")
        return [
            self.pick(["{He} had not much, only a piece of bread and {a_thing}.", "{when} {name} had only one piece of bread left."]),
            self.pick(["On the way to {place} {he} met {a_friend} named {friend}.", "Then {a_friend} named {friend} came along the road from {place}."]),
            self.pick(["\"I have eaten nothing since yesterday,\" said {friend}.", "\"I am so hungry,\" said {friend} in a small voice."]),
            self.pick(["{name} thought for a moment. Then {he} broke the bread in two.", "\"Then sit down and eat with me,\" said {name}."]),
            self.pick(["They ate together and told each other stories.", "It was only a little, but it tasted better than a feast."]),
            self.pick(["The next day {friend} came back with a basket full of berries.", "When winter came, {friend} brought {him} a sack of nuts."]),
            "\"You shared with me when you had little,\" said {friend}. \"Now I share with you.\"", self.pick(JOY),
        ]

    def boast(self) -> list[str]:
        self.summary = self.fill("{friend} the {friend_kind} boasts and loses a race against {name} the {kind}.")
        return [
            "Not far away lived {friend}, {a_friend}, who liked to boast.",
            self.pick(["\"Nobody is as fast as I am,\" said {friend} every day.", "\"I am the best of all,\" {friend} used to say."]),
            self.pick(["{when} {name} had heard enough. \"Let us have a race to {place},\" {he} said.", "{when} {name} said quietly, \"Then run with me to {place}.\""]),
            self.pick(["{friend} laughed so loudly that the birds flew up.", "All the neighbours came to watch."]),
            "They set out, and {friend} was soon far ahead.",
            self.pick(["\"I have plenty of time,\" thought {friend}, and lay down under a tree to sleep.", "Halfway {friend} stopped to tell everybody how fast the race was going."]),
            self.pick(["But {name} went on, step by step, and did not stop.", "{name} did not look left or right, and walked on and on."]),
            "When {friend} came to {place}, {name} was already there.",
            self.pick(["{friend} was ashamed and never boasted again.", "\"You have won,\" said {friend}, \"and I have learned something.\""]),
        ]

    def help(self) -> list[str]:
        self.summary = self.fill("{name} the {kind} helps {friend} the {friend_kind}, who later saves {him}.")
        return [
            self.pick(["{when} {he} walked to {place}.", "{when} {he} went out to look for {a_thing}."]),
            self.pick(["There {he} saw {a_friend} caught in a net.", "There {a_friend} had fallen into a deep hole."]),
            self.pick(["\"Please help me,\" said the {friend_kind}. \"My name is {friend}, and one day I will help you too.\"", "\"Help!\" cried {friend}, for that was the name of the {friend_kind}."]),
            self.pick(["{name} did not wait. {He} set {friend} free.", "{name} pulled and pulled until {friend} was free."]),
            "\"I will not forget this,\" said {friend}.",
            self.pick(["A year later there was a great storm, and {name} could not find the way home.", "Some time later {name} fell ill, and nobody knew what to do."]),
            self.pick(["Then {friend} came, for {friend} could {friend_can}.", "But {friend} heard of it and came at once."]),
            self.pick(["Before the sun rose, {name} was safe.", "Soon {name} was well again."]),
            "\"You helped me once,\" said {friend}, \"and now I have helped you.\"",
        ]

    def learn(self) -> list[str]:
        self.summary = self.fill("{name} the {kind} learns to {skill} with patience and the help of {friend}.")
        return [
            self.pick(["More than anything {he} wanted to {skill}.", "{He} could {can}, but {he} could not {skill}."]),
            self.pick(["{when} {he} tried for the first time, and everybody laughed.", "{when} {he} tried it, but it went wrong."]),
            self.pick(["\"I shall never learn it,\" said {name}.", "{name} went to {place} and sat there alone."]),
            "Now {a_friend} named {friend} lived there. \"What is the matter?\" asked {friend}.",
            "\"I want to {skill},\" said {name}, \"but I am not good at it.\"",
            self.pick(["\"Nobody is good at first,\" said {friend}. \"Try a little every day.\"", "\"I made a hundred mistakes before I could do it,\" said {friend}."]),
            self.pick(["So {name} tried every morning and every evening.", "Day after day they practised together."]),
            self.pick(["At first it went badly, then it went better, and at last it went well.", "After a month it was not so hard any more."]),
            self.pick(["At the summer feast everybody wanted to see {name} {skill}.", "And when the people saw {name} {skill}, they clapped their hands."]), self.pick(JOY),
        ]

    def wish(self) -> list[str]:
        self.summary = self.fill("{name} the {kind} gets a wish and finds that home is best.")
        return [
            self.pick(["But {he} was not content and longed for something else.", "{He} had everything {he} needed, but {he} did not know it."]),
            self.pick(["{when} {he} found {a_thing} near {place}.", "{when} {he} met {a_friend} near {place}."]),
            self.pick(["A soft voice said, \"You may have one wish.\"", "\"Make a wish,\" said a voice, \"but think well.\""]),
            self.pick(["\"I wish to live in a palace of gold,\" said {name}.", "\"I want to see the whole world,\" said {name}.", "\"I want to be rich,\" said {name}."]),
            self.pick(["In a moment the wish came true.", "The wind rose, and so it was."]),
            self.pick(["At first {name} was glad. But soon {he} was lonely.", "For three days it was wonderful. On the fourth day {he} thought of home."]),
            self.pick(["\"Nobody laughs with me here,\" {he} said.", "\"The bread at home tasted better,\" {he} said."]),
            self.pick(["So {he} wished {himself_or} back again, and the wind carried {him} home.", "{He} walked for many days until {he} saw the old place again."]).replace("{himself_or}", "himself" if self.words["he"] == "he" else "herself"),
            "{friend}, {a_friend}, stood at the door and waited.", self.pick(JOY),
        ]
