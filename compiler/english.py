"""Plain English to measure models on: some two thousand tokens, written for this file.

Prose, dialogue, instructions and figures: where a model is unsure, it departs from its reference first.
"""

from textwrap import dedent

_TEXT = """
    The ferry to the island leaves at seven in the morning and again at four in the afternoon, and anyone
    who misses the second one sleeps on the mainland. Marta had missed it by less than a minute. She stood
    on the quay with her bag between her feet and watched the white stern grow smaller, and a boy who was
    coiling a rope told her, without looking up, that there was a room above the bakery if she did not
    mind the ovens starting at three.

    She did not mind. The room was warm, the bed was narrow, and through the floor came the smell of
    bread. She lay awake for a while and thought about the letter in her coat. It was only two pages long,
    and she knew most of it by heart, but she had not yet understood why her uncle, who had never in his
    life asked anybody for help, had written it at all. "Come before the end of the month," it said.
    "Bring the small key. Do not tell your mother."

    In the morning the sea was flat and grey. The captain, a heavy man with a cold, took her ticket and
    turned it over as if something might be written on the back. "You are Anton's niece," he said. "You
    have his chin." She asked him whether her uncle was well. The captain looked at the water for a long
    time before he answered. "He is well enough to shout," he said, "and that is how we usually tell."

    A lighthouse does not need to be tall if the cliff beneath it is. The one at the northern end of the
    island measures only eleven metres from its door to the lantern, but the light stands ninety-four
    metres above the sea and can be seen on a clear night from a distance of twenty-two nautical miles. It
    was built in 1868 from stone that was quarried on the spot, and for the first fifty years it burned
    oil. Three families lived there in turn, and each of them kept a garden behind a wall, because nothing
    that is higher than a man's knee survives the winter wind outside it. The light was made electric in
    1921 and automatic in 1983. Since then nobody has lived in the house, although a painter from the city
    rents the kitchen each summer and complains about the damp.

    How does such a lamp throw its light so far? The answer is less a matter of power than of glass. A
    bare lamp sends its light in every direction, and most of it is lost in the sky or on the ground. In
    1822 a French engineer proposed to surround the flame with rings of glass, each one cut at a slightly
    different angle, so that every ray would leave the lens almost parallel to the horizon. One large lens
    with the same effect would have weighed several tons and swallowed much of the light; the rings are
    thin, because only the angle of a surface bends a ray, not the thickness behind it. The same idea is
    now found in overhead projectors, in the headlamps of cars and in the flat magnifying sheets that are
    sold to people who read maps.

    To make a loaf like the one from the bakery, begin the evening before. Mix 400 grams of strong white
    flour with 100 grams of rye, 350 grams of water, 10 grams of salt and a piece of old dough about the
    size of an egg. Stir until no dry flour is left, cover the bowl, and leave it in a cool place
    overnight. In the morning the dough should have doubled and smell faintly of apples. Fold it four
    times, let it rest for an hour, and shape it without pressing out the air. Heat the oven, with an iron
    pot inside, as high as it will go. Bake the loaf in the closed pot for twenty-five minutes, then take
    off the lid and bake it for another twenty, until the crust is the colour of a chestnut. It is done
    when it sounds hollow if you knock on the bottom. Wait until it has cooled before you cut it, however
    hard that is.

    The council met on Tuesday to discuss the harbour. The engineer reported that the outer wall had moved
    by three centimetres since the last survey and that, in her opinion, it would not survive another
    storm like the one in February. She presented two proposals. The first, to repair the foundations from
    the inside, would cost about 1.2 million and take one summer. The second, to build a new wall further
    out, would cost four times as much, but it would also make room for larger boats. Mr. Holm said that
    larger boats were the last thing the town needed. Mrs. Adeyemi answered that the town had said the
    same about the railway. After two hours it was agreed, by seven votes to four, to ask for a third
    proposal.

    "What I do not understand," said Marta, "is why it has to be the small key." Her uncle was sitting by
    the window with a blanket over his legs, and he had not shouted once since she arrived, which worried
    her. He pointed at the clock on the wall. It was an ugly thing, black and brown, with a painted moon
    that had not moved for as long as she could remember. "Your grandfather made that," he said. "He made
    it badly on purpose. Anyone who knows about clocks can see that there is too much room behind the
    face." She took it down, laid it on the table and turned it over. There was a keyhole no larger than a
    grain of rice. The key turned as if it had been oiled yesterday.

    Inside there was no money and no jewel, but a roll of paper, tied with fishing line, covered from edge
    to edge with figures. Dates ran down the left side, four a day, and beside each of them stood a height
    in feet and inches. It took her a moment to see what it was. For thirty-one years, every six hours,
    through two wars and the winter when the harbour froze, somebody had walked to the end of the pier and
    measured the sea. "He thought it was rising," said her uncle. "Everyone laughed at him, so he stopped
    talking about it. But he did not stop counting." He closed his eyes. "They are going to build a wall,
    Marta. I would like them to build it high enough."

    A series of measurements is worth more than the sum of its parts. A single reading of the tide tells
    you almost nothing: the wind may have been strong, the pressure low, the observer tired. A hundred
    readings give you an average, and with it some idea of how far any one of them is likely to stray. But
    only when the same thing has been measured in the same way for a very long time can you subtract
    everything that repeats, the days, the months, the seasons, and the slow turning of the moon's orbit,
    which takes almost nineteen years, and look at what is left. What is left is usually small. In this
    case it was about two millimetres a year, less than the thickness of a coin, and it never once changed
    its sign.

    They sent the figures to the university in a box that had held oranges. For five weeks nothing came
    back. Then, on a Friday, two young people in unsuitable shoes stepped off the morning ferry and asked
    the captain where they could find the man with the clock. They stayed for three days, photographed
    every page, and asked so many questions that Anton began at last to shout again. When they left, one
    of them turned round on the quay. "You should know," she called, "that there are only four records in
    the whole country that are as old as this one, and the other three have gaps."

    The new wall was finished nine years later. It is not beautiful, and it stands a full metre higher
    than the first drawing showed, so that people who sit on the benches behind it see nothing but
    concrete and sky. There was some grumbling about that. Then, in the second week of January, the wind
    turned to the north-east and stayed there for thirty hours, the pressure fell to 958 hectopascals, and
    the highest tide of the year came in on top of it all. The water rose until it was within the width of
    a hand of the edge. It remained there, black and quite still, for the length of time that it takes to
    smoke a cigarette, which is what the harbour master did, and then it went down again.

    On the landward side, at the height of a child's eyes, there is a small brass plate. It does not carry
    the name of the engineer, nor of the minister who came to cut the ribbon, nor even, as the council had
    first intended, of the man who kept the figures. Marta had been asked what it should say, and she had
    thought about it for most of a winter. In the end she wrote to them that her uncle and her grandfather
    had both disliked speeches, and that they would have preferred something useful. So the plate shows a
    ruler, engraved in millimetres, with a line for each decade and plenty of room above.

    The captain retired in the same spring. On his last crossing he let the boy who coiled the ropes, who
    was no longer a boy, bring the boat in on his own, and stood beside Marta at the rail with his hands
    in his pockets. "Two millimetres," he said. "I must have tied up here ten thousand times, and I never
    saw it." She said that nobody could have seen it, that this was rather the point. He thought it over
    while the engine slowed and the first of the lines went across. "Still," he said, "you would think a
    man would notice."
"""

# One line a paragraph, as a model sees text elsewhere.
ENGLISH = "\n\n".join(" ".join(paragraph.split()) for paragraph in dedent(_TEXT).strip().split("\n\n"))
