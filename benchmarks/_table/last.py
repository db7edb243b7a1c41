"""What peers reached when they were last measured, for the figures of those that are not installed.

Million keys per CPU-second of one thread, by batch size, with 10 million keys of dim 16, on 2026-11-23: Xeon with
AVX-512, 2 virtual cores, 480 MiB of L3; TFRA 0.8.1 with TensorFlow 2.16.2 (its train step: 2 million keys),
fbgemm-gpu-cpu 1.8.0 with torch 2.13.0. Another machine gives other figures, so no ratio is made of them.
"""

DATE, KEYS, DIM = "2026-11-23", 10_000_000, 16
BATCHES = (4096, 16384, 65536)
MKEYS = {
    ("tfra", "serving", "lookup", "uniform"): (2.41, 2.26, 2.39),
    ("tfra", "serving", "lookup", "zipf"): (3.17, 3.48, 3.74),
    ("tfra", "training", "train", "uniform"): (0.59, 0.61, 0.71),
    ("tfra", "training", "train", "zipf"): (1.04, 1.23, 1.57),
    ("fbgemm", "training", "lookup", "uniform"): (8.3, 10.5, 12.2),
    ("fbgemm", "training", "lookup", "zipf"): (11.6, 17.3, 21.4),
    ("fbgemm", "training", "train", "uniform"): (1.01, 1.38, 2.01),
    ("fbgemm", "training", "train", "zipf"): (1.71, 2.18, 3.35),
}
