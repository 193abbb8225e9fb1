"""A small text of several kinds, to measure divergence on where the user gives none."""

TEXT = """\
The lighthouse keeper wrote down the weather every evening, as his mother had done before him. On the third of \
November the wind turned north-east and the glass fell to 29.4 inches; by midnight two of the boats were still out.

Question: A train leaves at 14:35 and arrives at 17:10. How long is the journey?
Answer: From 14:35 to 17:10 is 2 hours and 35 minutes.

def running_mean(values, width):
    total, means = 0.0, []
    for i, value in enumerate(values):
        total += value
        if i >= width:
            total -= values[i - width]
        if i + 1 >= width:
            means.append(total / width)
    return means

Photosynthesis takes place in two stages: in the first, light is absorbed by chlorophyll and water is split; in the \
second, carbon dioxide is fixed into sugars. Wenn es morgen regnet, bleiben wir zu Hause und lesen. El mercado abre a \
las ocho y cierra a las dos. {"name": "Ada", "born": 1815, "works": ["Notes"]}
"""
