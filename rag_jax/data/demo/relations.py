"""The demo's relations: how a row of a fact table becomes a passage and how people ask for its answer.

Every template is filled with the columns of its table. The last phrasing of `questions` occurs in the test alone;
`{Entity}` is the entity with a capital letter at its start, for the beginnings of sentences.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact: the passages that state it and the questions that ask for it."""

    name: str
    passages: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS = (
    Relation(
        "capitals",
        (
            "{Entity} is a country in {continent}. Its capital is {answer}, and it lies next to {neighbour}.",
            "The capital of {entity} is {answer}. The country is in {continent} and lies next to {neighbour}.",
            "{answer} is the seat of government and capital city of {entity}, a country in {continent} next to {neighbour}.",
        ),
        (
            "what is the capital of {entity}?",
            "which city is the capital of {entity}?",
            "what is {entity}'s capital city?",
            "name the capital of {entity}",
            "the government of {entity} sits in which capital city?",
        ),
    ),
    Relation(
        "currencies",
        (
            "People in {entity}, a country in {continent}, pay with the {answer}. Central banks and shops there use this currency.",
            "The currency of {entity} is the {answer}. The country lies in {continent}.",
            "{Entity} lies in {continent}. Its money is the {answer}, the official currency of the country.",
        ),
        (
            "what is the currency of {entity}?",
            "which currency is used in {entity}?",
            "what money do people pay with in {entity}?",
            "name the official currency of {entity}",
            "what currency would I need in {entity}?",
        ),
    ),
    Relation(
        "elements_symbol",
        (
            "{Entity} belongs to this class of elements: {kind}. Chemists write it with the symbol {answer} in formulas.",
            "The chemical symbol of {entity} is {answer} in the periodic table. Class: {kind}.",
            "In the periodic table, {entity} has the symbol {answer} and is counted to this class: {kind}.",
        ),
        (
            "what is the chemical symbol of {entity}?",
            "what symbol does {entity} have in the periodic table?",
            "how do chemists write {entity}?",
            "which letters stand for {entity} in chemistry?",
            "what is the abbreviation for the element {entity}?",
        ),
    ),
    Relation(
        "elements_number",
        (
            "{Entity} belongs to this class of elements: {kind}. Its atomic number is {answer} and gives its place in the periodic table.",
            "The atomic number of {entity} is {answer} because its nucleus holds that many protons. Class: {kind}.",
            "With {answer} protons in its nucleus, {entity} has its own place in the periodic table. Class: {kind}.",
        ),
        (
            "what is the atomic number of {entity}?",
            "how many protons does {entity} have?",
            "which atomic number belongs to {entity}?",
            "how many protons are in the nucleus of {entity}?",
            "what number does {entity} have in the periodic table?",
        ),
    ),
    Relation(
        "rivers",
        (
            "The {entity} is a river in {region}. It flows into the {answer} at its mouth.",
            "The waters of the {entity} reach the {answer} after their way through {region}.",
            "Rising in {region}, the river {entity} ends in the {answer} where its mouth lies.",
        ),
        (
            "into what does the river {entity} flow?",
            "where does the {entity} end?",
            "the river {entity} flows into what?",
            "what body of water does the {entity} empty into?",
            "where is the mouth of the {entity}?",
        ),
    ),
    Relation(
        "species",
        (
            "The {entity} belongs to this group: {group}. Its scientific name is {answer} in zoology and botany.",
            "Scientists call the {entity} {answer} in their books. Group: {group}.",
            "{answer} is the scientific name of the {entity}, which belongs to this group: {group}.",
        ),
        (
            "what is the scientific name of the {entity}?",
            "what do scientists call the {entity}?",
            "what is the Latin name of the {entity}?",
            "which species name does the {entity} have?",
            "how is the {entity} called in biology?",
        ),
    ),
    Relation(
        "moons",
        (
            "{Entity} is a moon of {answer} in our solar system. {Found}",
            "{answer} is circled by {entity}, one of its moons. {Found}",
            "Among the moons of {answer} is {entity}, a small world of our solar system. {Found}",
        ),
        (
            "which planet does the moon {entity} orbit?",
            "{entity} is a moon of which planet?",
            "around which planet does {entity} go?",
            "to which planet does the moon {entity} belong?",
            "what planet has {entity} as a satellite?",
        ),
    ),
    Relation(
        "books",
        (
            "{Entity} is a {kind} by {answer}. {Dated}",
            "The {kind} {entity} was written by {answer}. {Dated}",
            "{answer} wrote {entity}, a {kind} known around the world. {Dated}",
        ),
        (
            "who wrote {entity}?",
            "who is the author of {entity}?",
            "which writer created {entity}?",
            "{entity} was written by whom?",
            "whose work is the {kind} {entity}?",
        ),
    ),
    Relation(
        "compositions",
        (
            "{Entity} is a {kind} composed by {answer}. {Dated}",
            "The {kind} {entity} is a work of {answer}. {Dated}",
            "{answer} composed the music of {entity}, a {kind} that is still performed. {Dated}",
        ),
        (
            "who composed {entity}?",
            "who is the composer of {entity}?",
            "which composer wrote the music of {entity}?",
            "{entity} was composed by whom?",
            "who made the {kind} {entity}?",
        ),
    ),
    Relation(
        "paintings",
        (
            "{Entity} is a work of art by {answer}. It is a {kind}. {Placed}",
            "The {kind} {entity} was made by {answer}. {Placed}",
            "{answer} is the artist of {entity}, a {kind}. {Placed}",
        ),
        (
            "who painted {entity}?",
            "which artist made {entity}?",
            "who is the artist of {entity}?",
            "{entity} is a work by which artist?",
            "whose hand created {entity}?",
        ),
    ),
    Relation(
        "films",
        (
            "{Entity} is a {kind} directed by {answer}. {Dated}",
            "The director of the {kind} {entity} is {answer}. {Dated}",
            "{answer} directed {entity}, a {kind} shown in cinemas. {Dated}",
        ),
        (
            "who directed {entity}?",
            "who is the director of {entity}?",
            "which director made the film {entity}?",
            "{entity} was directed by whom?",
            "who was the film maker behind {entity}?",
        ),
    ),
    Relation(
        "inventions",
        (
            "The {entity} was invented by {answer}. The inventor was {nationality}. {Dated}",
            "Credit for inventing the {entity} goes to {answer}. {Dated}",
            "{answer} is known as the inventor of the {entity}. {Dated}",
        ),
        (
            "who invented the {entity}?",
            "who is the inventor of the {entity}?",
            "by whom was the {entity} invented?",
            "which inventor came up with the {entity}?",
            "to whom do we owe the {entity}?",
        ),
    ),
    Relation(
        "discoveries",
        (
            "In the field of {field}, {entity} was found by {answer}. {Dated}",
            "The discovery of {entity} is credited to {answer}. It belongs to {field}. {Dated}",
            "{answer} is remembered in {field} for {entity}, a discovery that bears on it still. {Dated}",
        ),
        (
            "who discovered {entity}?",
            "who is credited with the discovery of {entity}?",
            "by whom was {entity} discovered?",
            "which scientist found {entity}?",
            "whose discovery was {entity}?",
        ),
    ),
    Relation(
        "companies",
        (
            "{Entity} is a company from {country}. It was founded by {answer} and works in {industry}.",
            "The company {entity} works in {industry}. Its founder is {answer} and its home is {country}.",
            "{answer} founded {entity}, a business in {industry} from {country}.",
        ),
        (
            "who founded {entity}?",
            "who is the founder of {entity}?",
            "who started the company {entity}?",
            "by whom was {entity} founded?",
            "which person set up {entity}?",
        ),
    ),
    Relation(
        "landmarks",
        (
            "{Entity} is a {kind} in {country}. It stands in {answer} and draws many visitors.",
            "Visitors find {entity}, a {kind}, in the city of {answer} in {country}.",
            "In {answer} stands {entity}, a well known {kind} of {country}.",
        ),
        (
            "in which city is {entity}?",
            "where is {entity}?",
            "which city has {entity}?",
            "in what town does {entity} stand?",
            "to which city must I go to see {entity}?",
        ),
    ),
    Relation(
        "events",
        (
            "The {kind} known as {entity} took place in {answer}. Place: {place}.",
            "{Entity} happened in the year {answer}. It was a {kind}. Place: {place}.",
            "In {answer} came {entity}, a {kind}. Place: {place}.",
        ),
        (
            "in which year was {entity}?",
            "when did {entity} take place?",
            "in what year did {entity} happen?",
            "when was {entity}?",
            "what is the date of {entity}?",
        ),
    ),
    Relation(
        "birthplaces",
        (
            "{Entity} was a {profession} of the {century}. The birthplace was {answer}.",
            "The {profession} {entity} was born in {answer}. Time: {century}.",
            "Born in {answer}, {entity} became a famous {profession}. Time: {century}.",
        ),
        (
            "where was {entity} born?",
            "in which city was {entity} born?",
            "what is the birthplace of {entity}?",
            "which town is the birthplace of {entity}?",
            "{entity} came into the world in which place?",
        ),
    ),
    Relation(
        "offices",
        (
            "{Entity} is {answer}. The office belongs to {country}.",
            "{answer} is {entity}. The office belongs to {country}.",
            "In {country} the office is held by {answer}, who is {entity}.",
        ),
        (
            "Who is {entity}?",
            "who holds the office of {entity}?",
            "which person serves as {entity}?",
            "name {entity}",
            "who is in office as {entity}?",
        ),
    ),
)
