"""The networks, losses and data sets that a user can choose. Each is declared once, as a record,
and imports no Keras before it is used."""
