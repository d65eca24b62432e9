"""Haikus: three lines of five, seven and five syllables.

Some topics have lines of their own; for any other noun whose syllables are known, the noun goes into a frame.
"""

import random

# topic: (first lines of 5, middle lines of 7, last lines of 5)
TOPICS = {
    "artificial intelligence": (
        ["Silent circuits hum", "A mind made of light", "Numbers start to dream", "Born of code and light", "Deep in the machine", "Silicon wakes up"],
        ["It learns from all our stories", "Ten thousand lamps in the dark", "Words rise out of weights and sums", "It asks what the heart would say", "A new voice answers softly", "Patterns bloom like cherry trees"],
        ["Does it dream of us?", "Thought without a face", "Morning in the wires", "We teach, and it learns", "It knows, yet knows not", "A mirror of words"]),
    "machine learning": (
        ["Small steps down the hill", "Data falls like rain", "Each mistake a guide"],
        ["The error grows less and less", "Weights shift slowly in the night", "The model tries once again"],
        ["Now it understands", "Patterns come to light", "The valley is near"]),
    "computers": (
        ["Glowing screen at night", "Keys click in the dark", "Ones and zeros flow"],
        ["The cursor blinks and it waits", "A fan hums a quiet song", "A billion switches flicker"],
        ["The work is not done", "Soft blue light remains", "Sleep is far away"]),
    "programming": (
        ["One missing bracket", "Coffee and dark screens", "The tests are all green"],
        ["I search for it half the night", "Line by line the program grows", "A small bug hides in the loop"],
        ["It compiles at last", "Then the morning comes", "Ship it, and then sleep"]),
    "numbers": (
        ["Eight small bits of truth", "Zero, one, and then", "Count the falling leaves"],
        ["Each one holds a little sum", "They march in a long straight line", "The rest are rounded away"],
        ["Almost is enough", "The end has no end", "Small things carry much"]),
    "the sea": (
        ["Waves upon the sand", "Salt wind on my face", "Grey gulls cry and turn"],
        ["The tide takes the castle back", "Far away a white sail moves", "Blue water without an end"],
        ["The shore waits for more", "The deep keeps its song", "Evening on the sea"]),
    "the moon": (
        ["Pale moon on the lake", "Round lamp of the night", "Moonlight through the pines"],
        ["A fish breaks the silver glass", "She walks alone through the clouds", "My shadow walks beside me"],
        ["Then all is still here", "The owl looks at her", "No one is awake"]),
    "the sun": (
        ["Gold on the hilltops", "The sun climbs the wall", "First light of the day"],
        ["The sleepy cat finds its warmth", "All the windows start to shine", "Flowers turn their heads to look"],
        ["Shadows run away", "A new day begins", "The cold night is gone"]),
    "rain": (
        ["Rain upon the roof", "Soft rain all day long", "Drops on the window"],
        ["The garden drinks and is glad", "Two umbrellas pass the gate", "The street becomes a river"],
        ["I stay in and read", "Puddles hold the sky", "The frogs are singing"]),
    "snow": (
        ["Snow falls in the night", "White fields, white rooftops", "One flake on my sleeve"],
        ["The whole village holds its breath", "A fox has left small footprints", "Every sound becomes so soft"],
        ["The world is asleep", "It melts as I look", "Smoke from one chimney"]),
    "autumn": (
        ["Red leaves on the path", "The wild geese fly south", "Fog upon the fields"],
        ["The wind counts them one by one", "An apple falls in the grass", "The old tree lets go of gold"],
        ["Summer said goodbye", "Soon the frost will come", "Warm soup and a book"]),
    "spring": (
        ["The ice has melted", "Cherry blossoms fall", "A green leaf unfolds"],
        ["Birds are building in the hedge", "The brook has found its voice now", "Bees come back to the garden"],
        ["Winter is over", "Everything is new", "Children run outside"]),
    "summer": (
        ["Hot road, summer noon", "Crickets in the grass", "Bare feet in the stream"],
        ["The cat sleeps below the bench", "The long day will never end", "Ripe berries stain our fingers"],
        ["Not a leaf will stir", "Swallows in the sky", "Stars come out slowly"]),
    "winter": (
        ["Bare trees in the wind", "Frost upon the glass", "Short day and long night"],
        ["A crow sits upon the fence", "We sit closer to the fire", "The pond is a sheet of ice"],
        ["Spring is far away", "The kettle sings low", "The stars are so near"]),
    "the night": (
        ["The last lamp goes out", "Night comes on soft feet", "Dark hills and far bells"],
        ["A dog barks at nothing there", "Stars look in at the window", "The old clock counts in the hall"],
        ["Dreams open their door", "The house falls asleep", "Then the owl replies"]),
    "a cat": (
        ["The cat on the wall", "Soft paws on the stairs", "Green eyes in the dark"],
        ["She sleeps in a patch of sun", "He watches the bird all day", "The mouse holds its breath and waits"],
        ["Nothing worries her", "Then he walks away", "It is dinner time"]),
    "a dog": (
        ["The dog at the door", "Wet nose on my hand", "A stick in the air"],
        ["He hears my step from afar", "His tail beats upon the floor", "He runs and brings it to me"],
        ["I am home at last", "No words are needed", "Again and again"]),
    "mountains": (
        ["Snow on the mountain", "The path climbs the hill", "Clouds below my feet"],
        ["An eagle turns in the light", "Each stone has its own story", "The valley is blue and small"],
        ["The summit is still", "One more step to go", "How small I am here"]),
    "a river": (
        ["The river runs on", "Stones beneath the stream", "A leaf on the brook"],
        ["It never asks where to go", "A heron stands without sound", "It carries the sky along"],
        ["It will find the sea", "Time flows on like this", "I sit and listen"]),
    "a tree": (
        ["The old oak stands still", "Roots deep in the dark", "Wind among the leaves"],
        ["A hundred birds live in it", "It has seen so many kings", "It gives its shade to us all"],
        ["It asks for nothing", "Another ring grows", "Acorns on the ground"]),
    "love": (
        ["Your hand in my hand", "One word from your lips", "Two cups on the shelf"],
        ["We walk and we do not speak", "The whole day becomes so bright", "Your name is a quiet song"],
        ["My heart is at home", "The rain may come now", "Stay a little while"]),
    "friendship": (
        ["We share the last plum", "A light in the dark", "Old friend at the gate"],
        ["The long road seems short with you", "We laugh about nothing much", "You knew without a question"],
        ["The tea is still warm", "Then we walk back home", "Come again soon, friend"]),
    "time": (
        ["The clock on the wall", "Sand runs through the glass", "Grandfather's old watch"],
        ["It counts and it never rests", "The child is a man today", "Yesterday will not come back"],
        ["This moment is mine", "Where did it all go?", "Still it ticks and ticks"]),
    "tea": (
        ["Steam above the cup", "Green leaves, hot water", "Rain, and a teapot"],
        ["The garden waits in the mist", "I hold the warmth in my hands", "No one needs to say a word"],
        ["The first sip is best", "The world can wait now", "Quiet afternoon"]),
    "books": (
        ["A book by the lamp", "Dust upon the shelf", "Turn another page"],
        ["I sail to a far country", "A thousand voices waiting", "The hero is not home yet"],
        ["It is late again", "One more chapter, please", "Words become a world"]),
    "memory": (
        ["An old photograph", "The cache is half full", "A song from those days"],
        ["I know the house and the tree", "Keys and values wait in blocks", "It brings the whole summer back"],
        ["But where is the child?", "Nothing is read twice", "Smell of fresh cut grass"]),
    "silence": (
        ["No wind and no bird", "The bell has grown still", "Snow on the temple"],
        ["I hear the sound of my heart", "Its last note hangs in the air", "Even the brook is frozen"],
        ["The hills are listening", "Now nothing is said", "Silence is a song"]),
    "the stars": (
        ["Stars above the roof", "So many small lights", "The sky full of sparks"],
        ["Their light left long, long ago", "I try to count them and fail", "One of them falls as I look"],
        ["I make a small wish", "The night has no end", "We look up and dream"]),
    "flowers": (
        ["A rose by the door", "Poppies in the wheat", "One small violet"],
        ["The bee comes and stays a while", "Red upon the field of gold", "It blooms where nobody walks"],
        ["Sweet is the morning", "Tomorrow they fall", "Nobody told it"]),
    "a garden": (
        ["Dew upon the grass", "The gate stands open", "Green rows in the sun"],
        ["A snail travels round the pot", "Beans climb up along their poles", "The roses lean on the wall"],
        ["There is time for all", "Come in and sit down", "Everything will grow"]),
    "coffee": (
        ["Dark cup, early light", "The smell wakes the house", "One more cup, I say"],
        ["The day begins with a sip", "Outside it is still quite dark", "The page is no longer blank"],
        ["Now I am ready", "Good morning, dear world", "The spoon turns and turns"]),
    "a robot": (
        ["A robot stands still", "Gears turn in its chest", "Tin hands hold a rose"],
        ["It looks at the falling rain", "It does not know how to cry", "It counts the petals slowly"],
        ["It wants to know why", "It learns how to smile", "One light blinks, then two"]),
    "speed": (
        ["The tokens fly by", "Swift as a swallow", "No time to look back"],
        ["Eight bits are lighter than sixteen", "The train is gone in the mist", "The fast kernel wins the race"],
        ["Then the wind is still", "We are there at last", "Already, the end"]),
}
TOPICS["speed"][1][0] = "Eight bits weigh less than sixteen"
TOPICS["silence"][2][0] = "The old hills listen"

# noun: syllables, for nouns that go into the frames below
NOUNS = {
    1: ["a bird", "a fox", "the wind", "a boat", "a bridge", "the fog", "a king", "a ship", "a train", "a leaf", "the frost", "a frog", "bread", "a lamp", "a stone",
        "a cloud", "a horse", "a bear", "a mouse", "the storm", "a dream", "a clock", "a door", "the rose", "an owl", "the lake", "a field", "hope", "sleep", "a star", "a bee", "a song", "cake", "cheese", "home"],
    2: ["a kitten", "pizza", "the desert", "an apple", "a castle", "a candle", "the forest", "a lion", "a window", "the morning", "the evening", "a spider",
        "a rabbit", "the ocean", "a mirror", "thunder", "a teacher", "a baker", "a pencil", "a letter", "a lantern", "a city", "the village", "music", "a rainbow", "the kitchen", "the planets", "water", "football", "a server", "a token", "a kernel"],
    3: ["a butterfly", "a dragonfly", "the library", "an elephant", "the universe", "a computer", "chocolate cake", "a violin", "a telephone", "the holiday", "a piano", "the hospital", "a grandmother", "the orchestra", "the quiet street"],
}
# The frame for a noun that has, with its article, so many syllables.
FIRST = {
    1: ["Quiet days and {n}", "Morning light and {n}", "Nothing but some {n}", "I dream of good {n}"],
    2: ["See how still, {n}", "Once I saw {n}", "I sing of {n}", "Alone with {n}", "Morning light, {n}", "I think of {n}"],
    3: ["I see {n}", "At dawn, {n}", "Alone, {n}", "Just now, {n}", "Out there, {n}", "Once more, {n}"],
    4: ["Oh, {n}", "Look, {n}", "Hush, {n}", "Here, {n}"],
}
MIDDLE = ["The day is long and golden", "Nobody else is about", "A small wind moves in the grass", "Far away a bell is rung", "I stop and forget the time", "The clouds go by without haste",
          "Something in me grows quiet", "The light is soft on the hill", "All the world is listening", "Even the birds stop to look", "I keep this in my pocket", "It asks for nothing at all"]
LAST = ["This moment is mine", "Evening comes slowly", "I smile and walk on", "Nothing more to say", "The heart understands", "How simple it is", "Then the light is gone", "I shall remember",
        "Let it be like this", "The whole sky is near", "Tomorrow, again", "Peace on the meadow"]


def haiku(generator: random.Random) -> tuple[str, str]:
    """A topic and its haiku."""
    if generator.random() < 0.6:
        topic = generator.choice(list(TOPICS) + ["artificial intelligence"] * 6)
        first, middle, last = (generator.choice(lines) for lines in TOPICS[topic])
    else:
        count = generator.choice([1, 1, 2, 2, 2, 3])
        topic = generator.choice(NOUNS[count])
        size = count + (" " in topic and topic.split()[0] in ("a", "an", "the"))
        first = generator.choice(FIRST[size]).format(n=topic)
        middle, last = generator.choice(MIDDLE), generator.choice(LAST)
    first_end, middle_end = generator.choice([(",", "."), (",", ","), ("", "."), ("", ""), (".", ".")])
    end = "" if last[-1] in "?!" else "."
    return topic, f"{first[0].upper()}{first[1:]}{first_end}\n{middle}{middle_end}\n{last}{end}"
