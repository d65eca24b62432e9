"""Generators of simple English, written for this model: questions and answers, haikus, stories, lists."""
