"""The same four ratings in every layout in which MovieLens is handed round."""

from pathlib import Path

# (user, item, stars, timestamp), not in time order; 10 and 11 are tied and stay in the order of the file.
RATINGS = [(7, 2, 3, 2000), (7, 1, 5, 1000), (9, 1, 4, 2000), (9, 2, 1, 7200)]

RECBOLE = {
    "a/ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + "".join(f"{u}\t{i}\t{s}\t{t}\n" for u, i, s, t in RATINGS),
    "a/ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's\n2\tNowhere\tV\tunknown\n",
    "a/ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "7\t24\tM\ttechnician\t85711\n9\t9\tF\tother\t94043\n",
}
ML_100K = {
    "ml-100k/u.data": "".join(f"{u}\t{i}\t{s}\t{t}\n" for u, i, s, t in RATINGS),
    "ml-100k/u.user": "7|24|M|technician|85711\n9|9|F|other|94043\n",
    "ml-100k/u.item": "1|Toy Story (1995)|01-Jan-1995||url|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "2|Caf\u00e9||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n",
}
ML_1M = {
    "ratings.dat": "".join(f"{u}::{i}::{s}::{t}\n" for u, i, s, t in RATINGS),
    "users.dat": "7::M::25::17::85711\n9::F::1::0::94043\n",
    "movies.dat": "1::Toy Story (1995)::Animation|Children's\n2::Caf\u00e9: Nowhere::unknown\n",
}
ML_25M = {
    "ml-25m/ratings.csv": "userId,movieId,rating,timestamp\n"
    + "".join(f"{u},{i},{s}.0,{t}\n" for u, i, s, t in RATINGS),
    "ml-25m/movies.csv": "movieId,title,genres\n"
    '1,"Story, Toy (1995)",Animation|Children\'s\n2,Nowhere,(no genres listed)\n',
}
LAYOUTS = {"recbole": RECBOLE, "ml-100k": ML_100K, "ml-1m": ML_1M, "ml-25m": ML_25M}


def write(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode("latin-1"))
    return folder
