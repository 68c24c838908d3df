"""How questions are put, and what a right answer says. In a question, {x} is filled in; the first letter is raised."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "what": (
        "What is in the {x}?", "What is at the {x}?", "What do you see in the {x}?", "What can you see at the {x}?",
        "Which thing is in the {x}?", "Tell me what is in the {x}.", "What's in the {x} of the picture?",
        "Name the object in the {x}.", "What is there in the {x}?", "What object is at the {x} right now?",
    ),
    "moving": (
        "What is moving?", "Which thing is moving?", "What is moving right now?", "What do you see moving?",
        "Tell me what is moving.", "Which object is on the move?",
    ),
    "where": (
        "Where is the {x}?", "Where is the {x} now?", "Where do you see the {x}?", "Where can I find the {x}?",
        "In which part of the picture is the {x}?", "Tell me where the {x} is.", "Where's the {x}?",
        "Where in the picture is the {x}?", "What is the position of the {x}?",
    ),
    "colour": (
        "What colour is the {x}?", "Which colour is the {x}?", "What is the colour of the {x}?",
        "What color is the {x}?",
        "Tell me the colour of the {x}.", "Which colour does the {x} have?", "What colour is the {x} now?",
        "What colour does the {x} have right now?",
    ),
    "how_many": (
        "How many {x} are there?", "How many {x} do you see?", "How many {x} can you see?",
        "How many {x} are in the picture?",
        "Count the {x}.", "What is the number of {x}?", "How many {x} are there now?", "Can you count the {x}?",
    ),
    "direction": (
        "Which way is the {x} moving?", "Which way does the {x} move?", "Where is the {x} going?",
        "In which direction is the {x} moving?", "Which direction is the {x} going?", "Which way is the {x} going?",
        "Tell me which way the {x} moves.", "In what direction does the {x} move?",
    ),
    "read": (
        "What does the card say?", "What does the sign say?", "What is written on the card?", "What is on the card?",
        "Read the card.", "What does it say on the sign?", "Can you read the card?", "What can you read?",
        "What is written on the sign?", "Please read the sign.",
    ),
    "read_number": ("What number is on the card?", "Which number do you see?", "What is the number on the sign?"),
    "read_word": ("What word is on the card?", "Which word do you see?", "What is the word on the sign?"),
    "first": (
        "Which came first, {x}?", "What came first, {x}?", "Which appeared first, {x}?", "Who came first, {x}?",
        "Which of these was first to come, {x}?", "What did you see first, {x}?", "Which one was here first, {x}?",
    ),
    "before": (
        "What was there before the {x}?", "What was in the place of the {x} before it came?",
        "What did the {x} replace?",
        "What stood there before the {x} came?", "What was where the {x} is now?",
        "What did you see there before the {x}?",
        "Before the {x}, what was in its place?", "Whose place did the {x} take?",
    ),
    "changed": (
        "What changed last?", "What has just changed?", "What was the last thing to change?", "What changed?",
        "What is the latest change?", "What happened last?", "What just happened?", "Tell me what changed last.",
        "Which thing changed most recently?",
    ),
    "when_left": (
        "When did the {x} leave?", "How long ago did the {x} leave?", "When did the {x} go away?",
        "How long has the {x} been gone?", "When did the {x} disappear?", "How long ago did you last see the {x}?",
        "Since when is the {x} gone?", "When was the {x} last here?",
    ),
    "absent": (
        "Is there {x}?", "Is there {x} in the picture?", "Can you see {x}?", "Do you see {x}?", "Is there {x} now?",
        "Can you see {x} right now?", "Is {x} there?", "Do you see {x} at the moment?", "Is there {x} on the screen?",
        "Is {x} to be seen?",
    ),
}  # fmt: skip

PLACES = (
    "upper left", "upper middle", "upper right", "middle left", "centre", "middle right",
    "lower left", "lower middle", "lower right",
)  # fmt: skip
ASKED_PLACES = (
    ("upper left", "top left", "upper left corner", "top left corner"), ("upper middle", "top middle", "top centre"),
    ("upper right", "top right", "upper right corner", "top right corner"), ("middle left", "left middle"),
    ("centre", "middle", "center"), ("middle right", "right middle"),
    ("lower left", "bottom left", "lower left corner", "bottom left corner"),
    ("lower middle", "bottom middle", "bottom centre"),
    ("lower right", "bottom right", "lower right corner", "bottom right corner"),
)  # fmt: skip
COUNTS = ("one", "two", "three", "four", "five")
DIRECTIONS = ("left", "right", "up", "down")
AGES: dict[str, tuple[float, float]] = {"five": (0.0, 7.0), "ten": (8.5, 14.0), "twenty": (16.0, 24.0)}
"""When something left, in words: the seconds between which each word is true. What falls between two is not asked."""

CHANGES = {
    "came": "came", "replaced": "came", "left": "left", "recoloured": "changed colour", "grew": "grew",
    "moved": "moved",
}  # fmt: skip
