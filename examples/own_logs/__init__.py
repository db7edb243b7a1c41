"""A recommender from two logs of one's own."""
