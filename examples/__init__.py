"""What a user copies first: a whole recommender on MovieLens, and a minimal one on two logs of one's own."""
