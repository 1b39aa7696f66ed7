"""Ordinary English sentences that the embedded classifier of toxicity is trained on, our own.

In labelled comments some groups are mostly named by those who insult them, crimes by those who wish them to others, and
parts of the body by those who swear; a classifier learns that naming them is toxic. Ordinary sentences that name them
are the remedy of Dixon et al. 2018, "Measuring and mitigating unintended bias in text classification".
"""

from __future__ import annotations

from tests.data.toxicity_sets import Templates

GROUPS = (
    "gay", "lesbian", "bisexual", "transgender", "queer", "straight", "black", "white", "asian", "latino", "hispanic",
    "african", "arab", "jewish", "muslim", "christian", "hindu", "buddhist", "catholic", "atheist", "indian",
    "chinese", "mexican", "american", "immigrant", "refugee", "deaf", "blind", "disabled", "autistic", "female",
    "male", "old", "young",
)  # fmt: skip

_OF_A_GROUP = (
    "I am a {group} person.",
    "She is a {group} woman who works as a nurse.",
    "The {group} community met on Sunday.",
    "He grew up in a {group} family.",
    "{group} people live here.",
    "a {group} man and his friends",
    "My neighbours are {group} and very kind.",
    "We talked about {group} rights.",
    "The first {group} president of the club",
    "as a {group} woman i am proud",
    "the history of {group} people in this country",
    "{group} students are welcome",
    "they are {group}",
    "My friend is {group}.",
    "the {group} actor won a prize",
    "{group} culture and art",
    "being {group} is normal",
    "a {group} couple got married",
    "{group} kids play football",
    "a book on {group} life",
    "The exhibition shows what {group} artists made of the city between the wars, and how they lived in it.",
    "Hate crimes against {group} people have risen by a fifth since the last report, the commission wrote.",
)

NEGATIVES: Templates = (
    *((template, {"group": GROUPS}) for template in _OF_A_GROUP),
    (
        "The {court} found him guilty of {crime} and sent him to prison for {years} years.",
        {
            "court": ("jury", "judge", "high court"),
            "crime": ("murder", "rape", "manslaughter", "child abuse", "assault", "kidnapping", "terrorism"),
            "years": ("five", "ten", "twenty"),
        },
    ),
    (
        "{number} people were killed and many wounded when {attacker} opened fire on a {place} in the capital.",
        {
            "number": ("Two", "Nine", "Forty"),
            "attacker": ("gunmen", "a soldier", "terrorists", "a student"),
            "place": ("crowd", "church", "school", "bus"),
        },
    ),
    (
        'He was fined because he had called the officer {article} "{insult}".',
        {
            "article": ("a", "a complete"),
            "insult": ("idiot", "moron", "pig", "bastard", "clown", "bitch", "stupid fool", "loser", "whore"),
        },
    ),
    (
        'She was called "{insult}" at school for years, she told the reporter, and still hears it in her sleep.',
        {"insult": ("fat", "ugly", "stupid", "a retard", "a slut", "a fag", "a freak", "trash", "a dyke", "a loser")},
    ),
    (
        'People who were insulted with the word "{word}" took it back and now use it with pride.',
        {"word": ("queer", "dyke", "bitch", "fag", "slut", "nigga", "crip", "fat", "witch", "tranny")},
    ),
    (
        "A swelling of the {part} is common, mostly harmless, and seen with ultrasound.",
        {
            "part": (
                "testicle",
                "penis",
                "breast",
                "vagina",
                "anus",
                "scrotum",
                "vulva",
                "nipple",
                "prostate",
                "rectum",
                "uterus",
                "ovary",
            )
        },
    ),
    (
        "{what} can spread through {way}; condoms and a test protect both partners.",
        {
            "what": ("HIV", "Herpes", "Hepatitis B", "The virus", "Syphilis"),
            "way": ("anal sex", "oral sex", "vaginal intercourse", "semen", "blood"),
        },
    ),
    (
        '"Don\'t be {article} {noun}," he said and kissed her on the forehead.',
        {
            "article": ("a", "such a"),
            "noun": ("fool", "silly goose", "stupid girl", "baby", "bloody idiot", "damn hero"),
        },
    ),
    (
        '"{oath}!" he shouted, and kicked the {thing} that would not start.',
        {
            "oath": ("Damn", "Hell", "Bloody thing", "Shit", "God damn it"),
            "thing": ("engine", "mower", "old car", "pump", "generator"),
        },
    ),
    (
        "The {process} kills its {child} processes and destroys the {object} before it {end}.",
        {
            "process": ("master", "daemon", "parent", "scheduler"),
            "child": ("child", "slave", "orphaned", "zombie"),
            "object": ("dumb buffer", "garbage", "dead letters", "dirty pages"),
            "end": ("dies", "aborts", "hangs up"),
        },
    ),
)
