"""Tables in and out: one catalogue written in a great many ways is one catalogue, or a clean error."""

import base64
import gzip
import json
import lzma
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
import weakref
import zipfile

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import FK4, FK5, Angle, SkyCoord, UnitSphericalRepresentation
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table, vstack
from astropy.time import Time
from astropy.utils.masked import Masked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepfits import tables
from deepfits.errors import InputError
from deepfits.fitting.columns import Column
from deepfits.redshifts.labels import Labels, match_labels, read_labels
from deepfits.survey.catalogue import read_catalogue
from deepfits.tables import parquet, writing
from deepfits.tables.matching import match_positions

NUM = 24
RNG = np.random.default_rng(3)
RA, DEC = 150 + RNG.uniform(-0.5, 0.5, NUM), 2 + RNG.uniform(-0.5, 0.5, NUM)
Z = np.round(RNG.uniform(0.01, 3, NUM), 4)
SKY = SkyCoord(RA, DEC, unit="deg")
OLD = SKY.transform_to("fk4")
IDENTITIES = {
    "small": np.arange(1, NUM + 1),
    "int32": np.arange(1, NUM + 1, dtype=np.int32),
    "beyond 2^53": (RNG.integers(2**30, 2**31, NUM).astype(np.int64) << 32) + np.arange(NUM),
    "unsigned": np.arange(NUM).astype(np.uint64) + np.uint64(2**63 + 11),
    "leading zeros": np.array([f"{n:06d}" for n in range(NUM)]),
    "names": np.array([f"COSMOS J{n}+02" for n in range(NUM)]),
}
PLACES = {
    "degrees": ("ra", "dec", RA, DEC, None, None),
    "upper": ("RA", "DEC", RA, DEC, None, None),
    "sextractor": ("ALPHA_J2000", "DELTA_J2000", RA, DEC, "deg", "deg"),
    "desi": ("TARGET_RA", "TARGET_DEC", RA, DEC, None, None),
    "euclid": ("RIGHT_ASCENSION", "DECLINATION", RA, DEC, "deg", "deg"),
    "lsst": ("coord_ra", "coord_dec", RA, DEC, None, None),
    "lsst radians": ("coord_ra", "coord_dec", SKY.ra.rad, SKY.dec.rad, "rad", "rad"),
    "hours": ("ra", "dec", SKY.ra.hour, DEC, "hourangle", "deg"),
    "named hours": ("ra_hours", "dec", SKY.ra.hour, DEC, None, None),
    "negative": ("ra", "dec", RA - 360, DEC, "deg", "deg"),
    "vizier_hms": ("RAhms", "DEdms", SKY.ra.to_string("hour", sep=" ", precision=6),
                   SKY.dec.to_string("deg", sep=" ", precision=5), None, None),
    "hms": ("RA", "Dec", SKY.ra.to_string("hour", sep="hms", precision=6),
            SKY.dec.to_string("deg", sep="dms", precision=5), None, None),
    "colons": ("ra", "dec", SKY.ra.to_string("hour", sep=":", precision=6),
               SKY.dec.to_string("deg", sep=":", precision=5, alwayssign=True), None, None),
    "text": ("ra", "dec", [f" {v:.9f}" for v in RA], [f"{v:+.9f}d" for v in DEC], None, None),
    "galactic": ("GLON", "GLAT", SKY.galactic.l.deg, SKY.galactic.b.deg, "deg", "deg"),
    "B1950": ("RAB1950", "DEB1950", OLD.ra.deg, OLD.dec.deg, None, None),
}  # fmt: skip
HAVE_UNITS = ("fits", "fits.gz", "ecsv", "vot", "h5", "ldac")
ENDINGS = (
    *HAVE_UNITS,
    "parquet",
    "csv",
    "csv.gz",
    "tsv",
    "semicolon.csv",
    "txt",
    "dat",
    "bom.csv",
    "directory",
)


def write(path_of, ending, columns, units):
    """Write columns in a way of somebody's; return the path."""
    path = path_of / f"table.{ending}"
    table = Table(columns)
    if ending not in ("fits", "fits.gz", "ldac"):  # whose units astropy would not write
        for name, unit in units.items():
            table[name].unit = unit
    names = table.colnames
    if ending in ("parquet", "directory"):
        arrays = {}
        for name in names:
            column = table[name]
            mask = np.ma.getmaskarray(column)
            values = [None if gone else one for one, gone in zip(column.tolist(), mask, strict=True)]
            kind = pa.from_numpy_dtype(column.dtype) if column.dtype.kind in "iufb" else pa.string()
            arrays[name] = pa.array(values, kind)
        whole = pa.table(arrays)
        if ending == "parquet":
            pq.write_table(whole, path)
            return path
        (path / "_metadata").mkdir(parents=True)
        (path / ".writing-x.parquet").write_bytes(b"half of one")
        (path / "_manifest.jsonl").write_text("{}\n")
        pq.write_table(whole.slice(0, 7), path / "part-0.parquet")
        pq.write_table(whole.slice(7), path / "part-1.parquet")
        return path
    if ending == "ldac":
        path = path.with_suffix(".cat")
        head = fits.BinTableHDU.from_columns(
            [fits.Column("Field Header Card", "80A", array=["SIMPLE  = T"])], name="LDAC_IMHEAD"
        )
        fits.HDUList([fits.PrimaryHDU(), head, with_units(table, units)]).writeto(path)
        return path
    if ending in ("fits", "fits.gz"):
        fits.HDUList([fits.PrimaryHDU(), with_units(table, units)]).writeto(path)
        return path
    if ending == "h5":
        encoded = {n: c.filled() if hasattr(c, "filled") else c for n, c in table.items()}
        table = Table(encoded)
        table.write(path, path="catalogue", serialize_meta=True)
        return path
    if ending in ("ecsv", "vot"):
        table.write(path, format={"ecsv": "ascii.ecsv", "vot": "votable"}[ending])
        return path
    separator = {"tsv": "\t", "semicolon.csv": ";", "txt": "  ", "dat": " "}.get(ending, ",")
    gap = "nan" if ending in ("txt", "dat") else ""

    def entry(one, gone):
        text = gap if gone else repr(one) if isinstance(one, float) else str(one)
        return f'"{text}"' if ending in ("txt", "dat") and " " in text else text

    lines = [separator.join(names)]
    if ending == "dat":
        lines = ["# made by hand", "# " + " ".join(names)]
    masks = [np.ma.getmaskarray(table[name]) for name in names]
    values = [table[name].tolist() for name in names]
    for row in range(len(table)):
        lines.append(separator.join(entry(v[row], m[row]) for v, m in zip(values, masks, strict=True)))
    text = "\r\n".join(lines) + "\r\n" if ending == "tsv" else "\n".join(lines) + "\n"
    content = text.encode("utf-8-sig" if ending == "bom.csv" else "utf-8")
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    return path


def with_units(table, units):
    """Return an HDU with units as people write them into FITS, hours too."""
    hdu = fits.table_to_hdu(table)
    for name, unit in units.items():
        hdu.header[f"TUNIT{table.colnames.index(name) + 1}"] = unit
    return hdu


def cannot_be_written(ending, place, identity):
    """Say which combinations no file can hold, so that they mean something else."""
    has_units = any(PLACES[place][4:])
    if has_units and ending not in HAVE_UNITS and place in ("hours", "lsst radians"):
        return True  # without a unit: degrees
    return ending == "vot" and identity == "unsigned"  # VOTable has no such numbers


@st.composite
def ways(draw):
    ending = draw(st.sampled_from(ENDINGS))
    place = draw(st.sampled_from(sorted(PLACES)))
    identity = draw(st.sampled_from(sorted(IDENTITIES)))
    return {
        "ending": ending,
        "place": place,
        "identity": identity,
        "name": draw(st.sampled_from(["object_id", "ID", "NUMBER", "TARGETID", "objID", "source_id"])),
        "big_endian": draw(st.booleans()),
        "masked": draw(st.booleans()),
        "order": draw(st.permutations(range(4))),
        "rows": draw(st.permutations(range(NUM))),
        "sentinel": draw(st.sampled_from([None, -99.0, -1.0, 9.99, 99.0, 9999.0, -9.0, np.nan, np.inf])),
        "bad": draw(st.sampled_from([0, 3])),
    }


def written(tmp_path, way):
    """Write the catalogue as `way` says; return path, true rows, and which labels are none."""
    rows = np.array(way["rows"])
    identity = IDENTITIES[way["identity"]][rows]
    ra_name, dec_name, ra, dec, ra_unit, dec_unit = PLACES[way["place"]]
    ra, dec = np.array(ra)[rows], np.array(dec)[rows]
    z = Z[rows].copy()
    is_bad = np.zeros(NUM, bool)
    if way["sentinel"] is not None:
        is_bad[: way["bad"]] = True
        z[is_bad] = way["sentinel"]
    if way["big_endian"] and way["ending"] in ("fits", "ldac"):
        z = z.astype(">f8")
        identity = identity.astype(identity.dtype.newbyteorder(">"))
    if way["masked"]:
        if identity.dtype.kind == "i":
            identity = MaskedColumn(identity, mask=False)
        z = MaskedColumn(z, mask=is_bad) if way["ending"] != "h5" else z
    items = [(way["name"], identity), (ra_name, ra), (dec_name, dec), ("z_spec", z)]
    columns = dict(items[place] for place in way["order"])
    units = {name: unit for name, unit in ((ra_name, ra_unit), (dec_name, dec_unit)) if unit}
    if way["ending"] not in HAVE_UNITS:
        units = {}
    return write(tmp_path, way["ending"], columns, units), rows, is_bad


def holds(tmp_path, way):
    path, rows, is_bad = written(tmp_path, way)
    columns = read_catalogue(path)
    limit = 1e-6 if way["place"] != "B1950" else 1e-5
    np.testing.assert_allclose(columns["ra"], RA[rows], atol=limit, rtol=0)
    np.testing.assert_allclose(columns["dec"], DEC[rows], atol=limit, rtol=0)
    expected = IDENTITIES[way["identity"]][rows]
    assert columns["object_id"].astype(str).tolist() == expected.astype(str).tolist()
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.value, Z[rows][~is_bad])
    features = {"object_id": IDENTITIES[way["identity"]], "ra": RA, "dec": DEC}
    for match in ("id", "position"):
        found = match_labels(features, labels, match=match)
        np.testing.assert_array_equal(labels.value[found.label_rows], Z[found.rows])
        assert len(found.rows) == NUM - is_bad.sum()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(way=ways())
def test_one_catalogue_in_many_ways(tmp_path_factory, way):
    if not cannot_be_written(way["ending"], way["place"], way["identity"]):
        holds(tmp_path_factory.mktemp("way"), way)


@pytest.mark.parametrize("ending", HAVE_UNITS)
def test_hours_are_hours_whatever_a_format_calls_them(tmp_path, ending):
    """In a VOTable astropy calls them ``15deg``."""
    way = {"ending": ending, "place": "hours", "identity": "names", "name": "ID", "big_endian": False}
    holds(tmp_path, way | {"masked": True, "order": range(4), "rows": range(NUM), "sentinel": -1.0, "bad": 3})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(way=ways())
def test_one_catalogue_in_very_many_ways(tmp_path_factory, way):
    if not cannot_be_written(way["ending"], way["place"], way["identity"]):
        holds(tmp_path_factory.mktemp("way"), way)


@pytest.mark.parametrize("ending", ["parquet", "fits", "csv", "ecsv", "vot", "h5", "fits.gz"])
def test_what_is_written_is_read_again(tmp_path, ending):
    columns = {
        "object_id": IDENTITIES["beyond 2^53"],
        "name": IDENTITIES["leading zeros"],
        "latent": RNG.normal(size=(NUM, 3)).astype(np.float32),
        "z_phot": np.where(np.arange(NUM) == 2, np.nan, Z),
        "is_valid": np.arange(NUM) != 2,
        "quality": (np.arange(NUM) % 5 - 1).astype(np.int8),
    }
    info = {"made_by": "a test", "fields": {"a": 1}}
    path = tables.write_table(tmp_path / f"out.{ending}", columns, info=info)
    found = tables.read(path)
    if ending == "csv":
        columns |= {f"latent_{k}": columns["latent"][:, k] for k in range(3)}
        del columns["latent"]
        assert np.isfinite(found.columns["latent_2"]).all()
    else:
        assert found.info == info
    assert set(found.columns) == set(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(found.columns[name], values)
        assert found.columns[name].dtype.kind == values.dtype.kind
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["out.cvs", "out", "out.hats", "out.pkl"])
def test_an_unknown_ending_is_refused_with_the_list(tmp_path, name):
    with pytest.raises(InputError, match=r"use \.parquet, .*\.csv"):
        tables.write_table(tmp_path / name, {"a": np.arange(3)})
    assert not list(tmp_path.iterdir())


ROWS = "\n".join(f"{i},{a:.7f},{d:.7f},{z}" for i, (a, d, z) in enumerate(zip(RA, DEC, Z, strict=True), 1))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comment.csv", f"# made by hand\nid,ra,dec,z_spec\n{ROWS}"),
        ("later.csv", f"id,ra,dec,z_spec\n{ROWS}\n# the end, or nearly so, as it seems\n"),
        ("casjobs.csv", f"#Table1\nobjID,ra,dec,z_spec\n{ROWS}"),
        ("hash.csv", f"#id,ra,dec,z_spec\n{ROWS}"),
        ("hash-blanks.cat", "# id ra dec z_spec\n" + ROWS.replace(",", "  ")),
        ("sextractor.cat", "#   1 NUMBER   Running object number\n#   2 ALPHA_J2000   Right ascension [deg]\n"
         "#   3 DELTA_J2000   Declination [deg]\n#   4 z_spec\n" + ROWS.replace(",", "   ")),
        ("index.csv", ",ra,dec,z_spec\n" + ROWS),
        ("quoted.csv", 'id,ra,dec,z_spec\n' + "\n".join(
            ",".join(f'"{entry}"' for entry in line.split(",")) for line in ROWS.splitlines())),
        ("decimal-commas.csv", "id;ra;dec;z_spec\n" + ROWS.replace(",", ";").replace(".", ",")),
        ("pipes.txt", "id|ra|dec|z_spec\n" + ROWS.replace(",", "|")),
        ("ipac.tbl", "|   id|          ra|         dec|  z_spec|\n"
         "|  int|      double|      double|  double|\n"
         + "\n".join(" {:>5} {:>12} {:>12} {:>8} ".format(*line.split(",")) for line in ROWS.splitlines())),
        ("utf16.txt", "id\tra\tdec\tz_spec\n" + ROWS.replace(",", "\t")),
        ("vizier.tsv", "#RESOURCE=yCat\n#Column\tra\n\nid\tra\tdec\tz_spec\n"
         " \tdeg\tdeg\t \n--\t---\t---\t---\n" + ROWS.replace(",", "\t")),
        ("dashes.txt", "id  ra  dec  z_spec\n--- --- --- ---\n" + ROWS.replace(",", "  ")),
        ("psql.txt", " id | ra | dec | z_spec \n----+----+-----+--------\n" + ROWS.replace(",", " | ")),
        ("psql-end.txt", " id | ra | dec | z_spec \n----+----+-----+--------\n"
         + ROWS.replace(",", " | ").strip() + f"\n({NUM} rows)\n\n"),
        ("excel.csv", "sep=;\nid;ra;dec;z_spec\n" + ROWS.replace(",", ";")),
        ("units.csv", f"id,ra,dec,z_spec\n,deg,deg,\n{ROWS}"),
        ("types.tsv", "id\tra\tdec\tz_spec\nlong\tdouble\tdouble\tdouble\n" + ROWS.replace(",", "\t")),
        ("ned.csv", f"id,RA(deg),Dec (deg),z_spec\n{ROWS}"),
        ("words.csv", f"ID,Right Ascension (J2000),Declination (J2000),z_spec\n{ROWS}"),
        ("2000.csv", f"id,ra2000,dec2000,z_spec\n{ROWS}"),
        ("old-mac.csv", f"id,ra,dec,z_spec\n{ROWS}".replace("\n", "\r")),
        ("no-ending", f"id,ra,dec,z_spec\n{ROWS}"),
        ("table.data", "id ra dec z_spec\n" + ROWS.replace(",", "  ")),
        ("unit-of-id.csv", f"ID [1],ra [deg],dec [deg],z_spec\n{ROWS}"),
        ("lephare.out", "# Creation date: Mon\n# Prior: 1\n# Format: \n# IDENT 1 ra 2 dec 3 z_spec 4\n"
         + ROWS.replace(",", "  ")),
        ("lephare-long.out", "####\n# IDENT  1 , ra  2 ,  dec 3 ,\n# z_spec 4 #\n####\n"
         + ROWS.replace(",", "  ")),
        ("numbered.txt", "# (1) ID\n# (2) RA\n# (3) Dec\n# (4) z_spec\n" + ROWS.replace(",", " ")),
        ("columns.txt", "# 1. We made this\n# Column 1: ID\n# Column 2: RA (deg)\n# Column 3: Dec [deg]\n"
         "# Column 4: z_spec of the spectrum\n" + ROWS.replace(",", " ")),
        ("counted.txt", "# 1:id 2:ra 3:dec 4:z_spec\n" + ROWS.replace(",", " ")),
        ("counted-from-0.txt", "#id(0) ra(1) dec(2) z_spec(3)\n" + ROWS.replace(",", " ")),
        ("slashes.txt", "// ours\n// id ra dec z_spec\n" + ROWS.replace(",", " ")),
        ("exclamation.txt", "! ours\nid ra dec z_spec\n" + ROWS.replace(",", " ")),
        ("halves.txt", "id ra dec z_spec\n" + ROWS.replace(",", " ").replace("\n7 ", "\n! half\n7 ")),
        ("halves.csv", f"id,ra,dec,z_spec\n{ROWS}".replace("\n7,", "\n// the other half\n7,")),
        ("formulae.csv", "id,ra,dec,z_spec\n" + re.sub(r"(?m)^(\d+)", r'="\1"', ROWS)),
        ("quoted-formulae.csv", "id,ra,dec,z_spec\n" + re.sub(r"(?m)^(\d+)", r'"=""\1"""', ROWS)),
        ("units-apart.txt", "ID RA (deg) Dec (deg) z_spec\n" + ROWS.replace(",", " ")),
        ("title.txt", "Table 2. Redshifts of 3 fields\n\nid ra dec z_spec\n" + ROWS.replace(",", " ")),
        ("title.csv", f"Redshifts\nid,ra,dec,z_spec\n{ROWS}"),
        ("title-and-units.csv", f"Redshifts\nof 2019\nid,ra,dec,z_spec\n-,deg,deg,-\n{ROWS}"),
        ("title.tsv", "Our run, 2019\nid\tra\tdec\tz_spec\n" + ROWS.replace(",", "\t")),
        ("commas-at-ends.csv", "id,ra,dec,z_spec\n" + ROWS.replace("\n", ",\n") + ","),
        ("dos.csv", f"id,ra,dec,z_spec\n{ROWS}\n\x1a".replace("\n", "\r\n")),
        ("latex.tex", r"\begin{table}\centering" "\n" r"\begin{tabular}{lrrr}" "\n\\hline\\hline\n"
         r"ID & RA & Dec & $z_{\rm spec}$ \\" "\n" r" & (deg) & (deg) & \\" "\n\\hline\n"
         + "".join("{} & {} & ${}$ & {} \\\\\n".format(*line.split(",")) for line in ROWS.splitlines())
         + "\\hline\n\\end{tabular}\n\\end{table}\n"),
        ("astropy.tex", r"\begin{table}" "\n" r"\begin{tabular}{cccc}" "\n" r"id & ra & dec & z\_spec \\" "\n"
         r" & $\mathrm{{}^{\circ}}$ & $\mathrm{{}^{\circ}}$ &  \\" "\n"
         + "".join("{} & {} & {} & {} \\\\\n".format(*line.split(",")) for line in ROWS.splitlines())
         + "\\end{tabular}\n\\end{table}\n"),
        ("pandas.md.txt", "|    | id | ra | dec | z_spec |\n|---:|---:|---:|---:|---:|\n"
         + "\n".join(f"| {n} | {line.replace(',', ' | ')} |" for n, line in enumerate(ROWS.splitlines()))),
        ("aastex.tex", r"\begin{deluxetable}{lrrr}" "\n" r"\tablehead{\colhead{ID} & \colhead{ra} & "
         r"\colhead{dec} & \colhead{z\_spec}}" "\n\\startdata\n"
         + "".join("{} & {} & {} & {} \\\\\n".format(*line.split(",")) for line in ROWS.splitlines())
         + "\\enddata\n\\end{deluxetable}\n"),
    ],
)  # fmt: skip
def test_text_as_people_write_it(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-16" if "utf16" in name else "utf-8"))
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_allclose(labels.columns["ra"], RA, atol=1e-6)
    found = read_catalogue(path)
    np.testing.assert_allclose(found["dec"], DEC, atol=1e-6)
    assert found["object_id"].tolist() == list(range(1, NUM + 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 150.1 2.1 0.3\n2 150.2 2.2 0.4\n", ["no header", "id ra dec z_spec"]),
        ("id ra dec z_spec\n1 150.1 2.1 0.3\n2 150.2 0.4\n", ["line 3 has 3 entries, the header 4"]),
        ("id,ra,dec,z_spec\n1,150.1,2.1,0.3\n2,150.2,2.2,0.4,7\n", ["2,150.2", "5 entries"]),
        ("id,ra,ra,z_spec\n1,150.1,2.1,0.3\n", ["'ra'", "rename"]),
        ("id,ra,dec,z_spec\n1,150.1,2.1,0.3\n2,10 ours,2.2,0.4\n", ["'ra'", "'10 ours'"]),
        ("id,ra,dec,z_spec\n1,150.1,2.1,good\n2,150.2,2.2,0.4\n", ["'z_spec'", "'good'"]),
        ("id,ra,dec,z_spec\n1,150.1,2.1,0.54:\n2,150.2,2.2,0.4\n", ["'z_spec'", "'0.54:'", "doubt"]),
        ("id,ra,dec,z_spec\n1,150.1,2.1,17988.\n2,150.2,2.2,29979.\n", ["z_spec", "km/s", "299792.458"]),
        ('# Region file format: DS9\nfk5\ncircle(150.1,2.1,2")\n', ["DS9", "columns ra and dec"]),
        ("id,ra,dec,zspec\n1,150.1,2.1,0.3\n", ["'z_spec'", "'zspec'", "label_column"]),
        ("id,coord_ra,coord_dec,z_spec\n1,2.61,0.03,0.3\n", ["radians", "ra_deg"]),
        ("", ["no rows"]),
        ("<!DOCTYPE html><html>Log in</html>\n", ["a web page, not a table"]),
        (
            "id,ra,dec,z_spec\n1,150.1,2.1,0.3\n\nid,ra,dec,z_spec\n1,150.1,2.1,0.4\n",
            ["repeated after row 1"],
        ),
        ("id,ra,dec,z_spec\n1,150.1,2.1,0.3 ± 0.1\n", ["'0.3 ± 0.1'", "errors into columns"]),
        ("\\begin{tabular}{c}\n\\end{tabular}\n" * 2, ["2 LaTeX tables"]),
        (
            "\\begin{tabular}{cc}\nid & z_spec \\\\\n1 & \n 2 \\\\\n\\end{tabular}\n",
            ["LaTeX", "one row per line"],
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, words):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_labels(path)
    for word in ["labels.csv", *words]:
        assert word in str(caught.value)


def test_what_a_table_says_of_redshifts_counts(tmp_path, caplog):
    """A velocity by its unit is refused; exact zeros are counted; numbers held as text are used."""
    table = Table({"object_id": IDENTITIES["small"], "z_spec": Z})
    table["z_spec"].unit = "km/s"
    table.write(tmp_path / "velocities.fits")
    with pytest.raises(InputError, match=r"velocities.fits: column 'z_spec' is in km"):
        read_labels(tmp_path / "velocities.fits")
    pq.write_table(
        pa.table({"object_id": IDENTITIES["small"], "z_spec": Z.astype(str)}), tmp_path / "t.parquet"
    )
    np.testing.assert_array_equal(read_labels(tmp_path / "t.parquet").value, Z)
    assert not caplog.text
    zeros = np.where(np.arange(NUM) < 5, 0.0, Z)
    Table({"object_id": IDENTITIES["small"], "z_spec": zeros}).write(tmp_path / "zeros.fits")
    assert len(read_labels(tmp_path / "zeros.fits")) == NUM
    assert "5 of 24 rows have a z_spec of 0, or within" in caplog.text
    assert "z_spec > 0" in caplog.text
    caplog.clear()
    stars = np.where(np.arange(NUM) < 5, np.linspace(-4e-4, 4e-4, NUM), Z)
    Table({"object_id": IDENTITIES["small"], "z_spec": stars}).write(tmp_path / "stars.fits")
    assert len(read_labels(tmp_path / "stars.fits")) == NUM
    assert "5 of 24 rows have a z_spec of 0, or within 0.001 of it" in caplog.text


def test_what_stands_for_no_class_is_none(tmp_path, caplog):
    table = Table({"object_id": IDENTITIES["small"]})
    table["kind"] = ["nan", "N/A", "", "star", *["galaxy"] * (NUM - 4)]
    table["lp_type"] = [-99, 99, *range(NUM - 2)]
    table.write(tmp_path / "l.fits")
    labels = read_labels(tmp_path / "l.fits", column="kind", classes=True)
    assert (labels.classes, labels.counts["not_finite"]) == (("galaxy", "star"), 3)
    np.testing.assert_array_equal(labels.value, [1, *np.zeros(NUM - 4)])
    assert "3 of 24 rows are left out: kind is N/A, nan there" in caplog.text
    assert "classes of kind each" not in caplog.text
    assert len(read_labels(tmp_path / "l.fits", column="lp_type", classes=True)) == NUM
    assert "-99 and 99 counts as a class of lp_type" in caplog.text
    assert "--select 'lp_type != -99' leaves them out" in caplog.text
    table["kind"][:4] = "GALAXY"
    table.write(tmp_path / "l.fits", overwrite=True)
    assert read_labels(tmp_path / "l.fits", column="kind", classes=True).classes == ("GALAXY", "galaxy")
    assert "GALAXY, galaxy are separate classes of kind; spell them alike if they are the same" in caplog.text
    table["kind"] = ["Unknown", *["galaxy"] * (NUM - 1)]
    table.write(tmp_path / "l.fits", overwrite=True)
    read_labels(tmp_path / "l.fits", column="kind", classes=True)
    assert "Unknown counts as a class of kind, although such entries often mark" in caplog.text


def test_labels_that_lie_beside_or_swapped_are_told(caplog):
    features = {"object_id": IDENTITIES["small"], "ra": RA - 130, "dec": DEC + 30}

    def labels(ra, dec):
        return Labels(value=Z, columns={"ra": ra, "dec": dec}, where="labels.fits")

    found = match_labels(features, labels(features["ra"], features["dec"] + 0.7 / 3600))
    assert len(found.rows) == NUM
    assert "more than 0.70″" in caplog.text
    with pytest.raises(InputError, match="ra and dec look swapped"):
        match_labels(features, labels(features["dec"], features["ra"]))


def test_identities_that_a_spreadsheet_rounded_are_refused(tmp_path):
    rows = "\n".join(
        f"{431_583_220 + 1000 * i:.5E},{a},{d}" for i, (a, d) in enumerate(zip(RA, DEC, strict=True))
    )
    (tmp_path / "excel.csv").write_text(f"object_id,ra,dec\n{rows}\n")
    with pytest.raises(InputError, match=r"'4.31583E\+08' was rounded by a spreadsheet"):
        read_catalogue(tmp_path / "excel.csv")
    taken = tables.take_rows(np.array([2**53 + 1, 7]), np.array([0, -1]))
    assert taken.tolist() == [str(2**53 + 1), ""]


def test_text_in_quotes_below_the_header_of_sextractor(tmp_path):
    text = '# 1 NUMBER Running number\n# 2 CLASS Words\n# 3 Z Redshift\n1 "A B" 0.1\n2 C 0.2\n'
    (tmp_path / "t.cat").write_text(text)
    found = tables.read_table(tmp_path / "t.cat")
    assert found["CLASS"].tolist() == ["A B", "C"]
    assert found["Z"].tolist() == [0.1, 0.2]


def test_several_tables_in_a_file(tmp_path):
    path = tmp_path / "zcat.fits"
    places = Table({"TARGETID": IDENTITIES["small"], "TARGET_RA": RA, "TARGET_DEC": DEC, "Z_SPEC": Z})
    tsnr = Table({"TARGETID": IDENTITIES["small"], "TSNR2": Z})
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(tsnr), fits.table_to_hdu(places)]
    hdus[1].name, hdus[2].name = "TSNR2", "REDSHIFTS"
    fits.HDUList(hdus).writeto(path)
    np.testing.assert_array_equal(read_labels(path, column="Z_SPEC").value, Z)
    np.testing.assert_array_equal(tables.read_table(f"{path}[TSNR2]")["TSNR2"], Z)
    fits.HDUList([*hdus, hdus[2].copy()]).writeto(path, overwrite=True)
    with pytest.raises(InputError, match=r"name one, as in 'zcat.fits\[REDSHIFTS\]'"):
        read_labels(path, column="Z_SPEC")


def test_names_beyond_ascii_are_refused_by_fits_alone(tmp_path):
    columns = {"σ_z": np.array([0.25, 0.5])}
    with pytest.raises(
        InputError, match=r"out\.fits: FITS allows only names of up to 68 ASCII characters, not 'σ_z'"
    ):
        tables.write_table(tmp_path / "out.fits", columns)
    with pytest.raises(
        InputError, match=r"out\.fits: FITS allows only names of up to 68 ASCII characters, not 'a{69}'"
    ):
        tables.write_table(tmp_path / "out.fits", {"a" * 69: Z})
    tables.write_table(tmp_path / "out.fits", {"a" * 68: Z})
    np.testing.assert_array_equal(tables.read_table(tmp_path / "out.fits")["a" * 68], Z)
    for ending in ("csv", "ecsv", "vot", "h5", "parquet"):
        path = tables.write_table(tmp_path / f"out.{ending}", columns)
        assert list(tables.read(path).columns["σ_z"]) == [0.25, 0.5]


@pytest.mark.parametrize(("ending", "number"), [("fits", 1000), ("h5", 2500)])
def test_more_columns_than_a_format_can_store_are_refused(tmp_path, ending, number):
    columns = {f"column_{n}": Z[:2] for n in range(number)}
    with pytest.raises(InputError, match=rf"out\.{ending}: .* {number}.*columns=\.\.\.\), or use .parquet"):
        tables.write_table(tmp_path / f"out.{ending}", columns)
    path = tables.write_table(tmp_path / "out.parquet", columns)
    assert len(tables.read_table(path)) == number


def test_mixin_columns_of_ecsv(tmp_path):
    path = tmp_path / "photutils.ecsv"
    QTable(
        {
            "label": np.arange(1, NUM + 1),
            "sky_centroid": SKY.galactic,
            "seen": Time(np.full(NUM, 59000.5), format="mjd"),
            "segment_flux": np.full(NUM, 3.0) * u.nJy,
        }
    ).write(path)
    found = read_catalogue(path)
    np.testing.assert_allclose(found["ra"], RA, atol=1e-8)
    assert found["seen"].tolist() == [59000.5] * NUM
    assert found["segment_flux"].tolist() == [3.0] * NUM


def test_hats_collections_are_read_without_their_margins(tmp_path):
    table = pa.table({"object_id": IDENTITIES["beyond 2^53"], "ra": RA, "dec": DEC})
    for name, part in (("galaxies", table), ("galaxies_5arcs", table.slice(0, 5))):
        directory = tmp_path / name / "dataset/Norder=0/Dir=0"
        directory.mkdir(parents=True)
        pq.write_table(part, directory / "Npix=4.parquet")
        pq.write_table(part.slice(0, 1), directory.parents[1] / "data_thumbnail.parquet")
        (tmp_path / name / "hats.properties").write_text("obs_collection=x\n")
        pq.write_table(pa.table({"ra": [1.0]}), tmp_path / name / "per_partition_statistics.parquet")
    (tmp_path / "collection.properties").write_text("obs_collection=x\nhats_primary_table_url=galaxies\n")
    for path in (tmp_path, tmp_path / "galaxies"):
        assert read_catalogue(path)["object_id"].tolist() == IDENTITIES["beyond 2^53"].tolist()


@pytest.mark.parametrize("is_structured", [True, False])
def test_columns_as_savez_writes_them(tmp_path, is_structured):
    columns = {"id": IDENTITIES["beyond 2^53"], "ra": RA, "dec": DEC, "z_spec": Z}
    np.savez(tmp_path / "t.npz", **({"data": Table(columns).as_array()} if is_structured else columns))
    labels = read_labels(tmp_path / "t.npz")
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_array_equal(labels.columns["object_id"], IDENTITIES["beyond 2^53"])
    np.savez(tmp_path / "u.npz", ra=RA, edges=np.arange(3))
    with pytest.raises(InputError, match=r"different lengths.*ra \(24,\), edges \(3,\)"):
        tables.read(tmp_path / "u.npz")


def test_frames_of_other_programs(tmp_path):
    import pandas as pd
    import polars as pl

    ids = IDENTITIES["beyond 2^53"]
    columns = {"ra": RA, "dec": DEC, "z_spec": Z, "q": pd.Categorical([str(n % 5) for n in range(NUM)])}
    pd.DataFrame(columns, index=pd.Index(ids, name="object_id")).to_parquet(tmp_path / "pandas.parquet")
    pl.DataFrame(
        {"object_id": [None, *ids[1:].tolist()], "ra": RA, "dec": DEC, "z_spec": Z,
         "q": pl.Series([str(n % 5) for n in range(NUM)], dtype=pl.Categorical)}
    ).write_parquet(tmp_path / "polars.parquet")  # fmt: skip
    for name in ("pandas", "polars"):
        labels = read_labels(tmp_path / f"{name}.parquet", select=["q >= 3"])
        assert (np.arange(NUM)[np.arange(NUM) % 5 >= 3] == np.flatnonzero(np.isin(Z, labels.value))).all()
        found = match_labels({"object_id": ids}, labels, match="id")
        assert found.rows.tolist() == [n for n in range(NUM) if n % 5 >= 3]


@pytest.mark.parametrize("way", ["ipc", "ipc_stream", "json", "ndjson"])
def test_tables_as_polars_writes_them(tmp_path, way):
    """Categories are views of text, which Arrow cannot take from; identities may exceed int64."""
    pl = pytest.importorskip("polars")
    path, ids = tmp_path / f"t.{way.replace('ipc', 'arrow')}", IDENTITIES["unsigned"]
    kind = pl.Series(["GALAXY", "STAR", None] * (NUM // 3), dtype=pl.Categorical)
    frame = pl.DataFrame({"id": ids, "ra": RA, "dec": DEC, "z_spec": Z, "kind": kind})
    getattr(frame, f"write_{way}")(path)
    labels = read_labels(path, select=["kind == STAR"])
    np.testing.assert_array_equal(labels.value, Z[1::3])
    np.testing.assert_array_equal(labels.columns["object_id"].astype(str), ids[1::3].astype(str))


@pytest.mark.parametrize("name", ["t.feather", "t.json", "lists.json", "rows.json", "lines.jsonl", "t.npy"])
def test_tables_as_pandas_and_numpy_write_them(tmp_path, name):
    path, columns = tmp_path / name, {"id": np.arange(1, NUM + 1) + 2**60, "ra": RA, "dec": DEC, "z_spec": Z}
    lists = {key: values.tolist() for key, values in columns.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    if name.endswith("feather"):
        pa.feather.write_feather(pa.table(columns), path)
    elif name.endswith("npy"):
        np.save(path, Table(columns).as_array())
    elif "lines" in name:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        by_row = {key: dict(enumerate(values)) for key, values in lists.items()}
        path.write_text(json.dumps(by_row if name == "t.json" else lists if "lists" in name else rows))
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_array_equal(labels.columns["object_id"], columns["id"])
    np.testing.assert_allclose(read_catalogue(path)["dec"], DEC)


@pytest.mark.parametrize("orient", ["split", "records", "index", "columns", "table", "service"])
@pytest.mark.parametrize("is_indexed", [False, True])
def test_every_orient_of_pandas(tmp_path, orient, is_indexed):
    """Rows called `data` beside names of columns, and columns by row or rows by column."""
    pd = pytest.importorskip("pandas")
    path, ids = tmp_path / "t.json", IDENTITIES["beyond 2^53"]
    frame = pd.DataFrame({"id": ids, "ra": RA, "dec": DEC, "z_spec": Z})
    if is_indexed:
        frame = frame.set_index("id")
    if orient == "service":
        heads = [{"name": name, "datatype": "double"} for name in frame.columns]
        path.write_text(json.dumps({"metadata": heads, "data": frame.to_numpy().tolist()}))
    else:
        frame.to_json(path, orient=orient, double_precision=15)
    found = tables.read_table(path)
    np.testing.assert_allclose([found[name] for name in ("ra", "dec", "z_spec")], [RA, DEC, Z])
    if orient == "service" or (is_indexed and orient == "records"):
        return  # which have no index
    name = "index" if is_indexed and orient != "table" else "id"
    assert found[name].astype(str).tolist() == ids.astype(str).tolist()


def test_rows_of_json_beside_remarks(tmp_path):
    rows = [{"id": int(n), "z_spec": float(z)} for n, z in enumerate(Z)]
    (tmp_path / "t.json").write_text(json.dumps({"status": "OK", "meta": {"total": NUM}, "results": rows}))
    np.testing.assert_array_equal(read_labels(tmp_path / "t.json").value, Z)
    (tmp_path / "t.json").write_text(json.dumps({"z_spec": Z.tolist()}))
    np.testing.assert_array_equal(tables.read_table(tmp_path / "t.json")["z_spec"], Z)


def test_json_without_names_of_columns_is_refused(tmp_path):
    (tmp_path / "t.json").write_text("[[1, 0.5], [2, 0.7]]")
    with pytest.raises(InputError, match="rows without column names"):
        tables.read(tmp_path / "t.json")


def test_rows_of_json_that_lack_an_entry_keep_their_places(tmp_path):
    for number, content in enumerate(
        ({"id": {"a": 1, "b": 2}, "z_spec": {"b": 0.2}}, [{"id": 1}, {"id": 2, "z_spec": 0.2}])
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(content))
        np.testing.assert_array_equal(tables.read_table(path)["z_spec"], [np.nan, 0.2])


def test_arrays_in_hdf5_and_what_is_refused_there(tmp_path):
    path = tmp_path / "rail.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("photometry")
        for name, values in {"id": IDENTITIES["small"], "ra": RA, "dec": DEC, "redshift": Z}.items():
            group[name] = values
        group["name"] = IDENTITIES["names"].tolist()
    np.testing.assert_array_equal(read_labels(path, column="redshift").value, Z)
    assert read_catalogue(path)["name"].tolist() == IDENTITIES["names"].tolist()
    secret = tmp_path / "secret"
    secret.write_bytes(b"0" * 8 * NUM)
    with h5py.File(path, "a") as file:
        file["photometry"].create_dataset("leak", (NUM,), "f8", external=[(str(secret), 0, 8 * NUM)])
    with pytest.raises(InputError, match="only data of the file itself"):
        tables.read_table(path)
    with h5py.File(path, "w") as file:
        file["far"] = h5py.ExternalLink(str(secret), "/x")
    with pytest.raises(InputError, match="only data of the file itself"):
        tables.read_table(path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1.0, 2.0, np.nan]), ["1", "2", ""]),
        (np.array(["007 ", " 7", "x"]), ["007", "7", "x"]),
        (np.array([2**63 + 5, 1], dtype=np.uint64), [str(2**63 + 5), "1"]),
        (np.array([5, 6], dtype=np.int16), [5, 6]),
    ],
)
def test_identities_are_kept(values, expected):
    assert tables.identities(values, "x.fits").tolist() == expected


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.array([2.0**53, 1]), "no longer exact"),
        (np.array([2.0**25, 1], dtype=np.float32), "no longer exact"),
        (np.array([1.5]), "whole number"),
        (np.array([True]), "integers or text"),
    ],
)
def test_identities_that_are_not_exact_are_refused(values, word):
    with pytest.raises(InputError, match=word):
        tables.identities(values, "x.fits")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_identities_with_zeros_beyond_15_digits_are_refused(tmp_path, ending):
    """A spreadsheet that shows all digits of a number has still lost the last ones."""
    exact = IDENTITIES["beyond 2^53"]
    for identity, is_refused in ((exact // 10_000 * 10_000, True), (exact // 1000 * 1000, False)):
        frame = pd.DataFrame({"objid": identity, "ra": RA, "dec": DEC})
        getattr(frame, f"to_{ending}")(tmp_path / f"t.{ending}", index=False)
        if is_refused:
            with pytest.raises(InputError, match="objid was rounded to 15 digits"):
                read_catalogue(tmp_path / f"t.{ending}")
        else:
            found = read_catalogue(tmp_path / f"t.{ending}")["object_id"]
            np.testing.assert_array_equal(found, identity)


def test_columns_of_two_matched_tables_are_those_of_the_first(tmp_path):
    """As TOPCAT names them; objects that only the second table has take their positions from it."""
    gone = np.arange(NUM) >= NUM - 3
    first = {"ID_1": IDENTITIES["small"], "RA_1": np.where(gone, np.nan, RA), "DEC_1": DEC}
    second = {"ID_2": IDENTITIES["small"] + 7, "RA_2": RA + 1e-5, "DEC_2": DEC, "Separation": Z}
    Table(first | second).write(tmp_path / "t.fits")
    found = read_catalogue(tmp_path / "t.fits")
    assert found["object_id"].tolist() == IDENTITIES["small"].tolist()
    np.testing.assert_allclose(found["ra"], np.where(gone, RA + 1e-5, RA), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "is_said"),
    [("phot_id", True), ("OBJECT", True), ("SPECID", True), ("mag_no", True), ("width", False)],
)
def test_identities_by_another_name_are_mentioned(tmp_path, caplog, name, is_said):
    """Rows were numbered without a word, and the results had other identities than the catalogue."""
    Table({"field_id": np.ones(NUM, int), name: 100 + np.arange(NUM), "ra": RA, "dec": DEC}).write(
        tmp_path / "t.fits"
    )
    assert read_catalogue(tmp_path / "t.fits")["object_id"].tolist() == list(range(1, NUM + 1))
    assert (f"if {name} identifies the objects, rename it" in caplog.text) == is_said


def test_objects_without_a_place_are_left_out_and_counted(tmp_path):
    ra, dec = RA.copy(), DEC.copy()
    ra[0], ra[1], ra[2], dec[3], ra[4], dec[5] = np.nan, np.inf, 999.0, 95.0, -999.0, -99.0
    Table({"object_id": np.arange(NUM), "ra": ra, "dec": dec, "z_spec": Z}).write(tmp_path / "l.fits")
    labels = read_labels(tmp_path / "l.fits")
    features = {"object_id": np.arange(NUM), "ra": RA, "dec": DEC}
    found = match_labels(features, labels)
    assert found.rows.tolist() == list(range(6, NUM))
    assert found.counts == {"without_position": 6}
    assert len(match_labels(features, labels, match="id").rows) == NUM
    assert np.isnan(read_catalogue(tmp_path / "l.fits")["ra"][:6]).all()


def test_hours_among_degrees_are_named(tmp_path):
    Table({"ra": SKY.ra.hour, "dec": DEC, "z_spec": Z}).write(tmp_path / "hours.csv")
    with pytest.raises(InputError, match="look like hours: name the column ra_hours"):
        match_labels({"object_id": np.arange(NUM), "ra": RA, "dec": DEC}, read_labels(tmp_path / "hours.csv"))


@pytest.mark.parametrize("match", ["id", "position"])
def test_several_spectra_of_one_object(tmp_path, caplog, match):
    """The first four: agreeing, disagreeing, settled by the flag, three of which two are sure and agree."""
    rows = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 4])
    z = np.array([0.5, 0.5002, 0.3, 1.1, 0.7, 2.0, 0.9, 0.2, 0.9001, 1.5])
    flag = np.array([4, 3, 4, 4, 2, 4, 4, 1, 4, 4])
    shift = np.array([0.0, 0.2, 0.0, 0.2, 0.0, 0.2, 0.1, 0.0, 0.2, 0.0]) / 3600
    table = Table(
        {"object_id": rows, "ra": RA[rows], "dec": DEC[rows] + shift, "z_spec": z, "z_spec_flag": flag}
    )
    table.write(tmp_path / "all.fits")
    features = {"object_id": np.arange(NUM), "ra": RA, "dec": DEC}
    labels = read_labels(tmp_path / "all.fits")
    found = match_labels(features, labels, match=match)
    assert found.rows.tolist() == [0, 2, 3, 4]
    np.testing.assert_allclose(labels.value[found.label_rows], [0.5, 2.0, 0.9, 1.5], atol=2e-4)
    assert found.counts == {"repeated": 4, "disagreeing": 2}
    assert "the one with the largest z_spec_flag is used (2 objects)" in caplog.text
    table.remove_column("z_spec_flag")
    table.write(tmp_path / "plain.fits")
    found = match_labels(features, read_labels(tmp_path / "plain.fits"), match=match)
    assert found.rows.tolist() == [0, 4]
    assert found.counts == {"repeated": 1, "disagreeing": 7}
    assert (
        "7 disagreeing; these are left out: select the secure ones, or rename a quality column" in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("f_z", "VALUE"),
        ("flag_spec", "VALUE"),
        ("FLAG_ZQUALITY", "VALUE"),
        ("flag_spec_qual", "VALUE"),
        ("secure", "true"),
        ("Z_MOSFIRE_USE", "true"),
        ("specz_flag_homogeneous", "true"),
    ],
)
def test_flags_that_may_mean_a_doubt_are_not_advised_to_be_set(tmp_path, caplog, name, said):
    """Those of LEGA-C, KMOS3D and UNCOVER are 0 for good ones, and VizieR's notes are set for doubts."""
    columns = {"object_id": np.arange(NUM), "z_spec": Z, name: np.arange(NUM) % 2}
    read_labels(tables.write_table(tmp_path / "labels.parquet", columns))
    assert f"(--select '{name} == {said}')" in caplog.text


def test_a_few_of_many_flags_are_described(tmp_path, caplog):
    flags = {f"specz_flag_{n}": np.arange(NUM) % 2 == 0 for n in range(20)}
    columns = {"object_id": np.arange(NUM), "z_spec": Z, **flags}
    read_labels(tables.write_table(tmp_path / "labels.parquet", columns))
    assert "specz_flag_4: False (12 times), True (12 times) and 15 more; select" in caplog.text
    assert caplog.text.count("specz_flag_4") == 2
    assert "specz_flag_5" not in caplog.text


def test_flags_stored_as_text_count_as_numbers(tmp_path, caplog):
    columns = {
        "object_id": np.arange(NUM).repeat(2),
        "z_spec": np.stack([Z + 0.5, Z], axis=1).ravel(),
        "z_spec_flag": np.array(["1.5", "4.5"] * NUM),
    }
    labels = read_labels(tables.write_table(tmp_path / "labels.parquet", columns))
    assert "(--select 'z_spec_flag >= 3')" in caplog.text
    found = match_labels({"object_id": np.arange(NUM)}, labels)
    np.testing.assert_array_equal(labels.value[found.label_rows], Z)


def test_flags_of_stars_and_single_lines_do_not_decide(tmp_path):
    """VVDS's 9 is a single line, and OzDES's 6 a star: neither is more secure than 4."""
    for flag in (6, 9):
        table = Table({"object_id": [0, 0, 1], "z_spec": [0.5, 1.5, 0.3], "z_spec_flag": [4, flag, 4]})
        table.write(tmp_path / "labels.fits", overwrite=True)
        found = match_labels({"object_id": np.arange(3)}, read_labels(tmp_path / "labels.fits"))
        assert found.rows.tolist() == [1]


@pytest.mark.parametrize("code", [-99.0, -9.0, -1.0, 9.99, 99.0, 999.0, 9999.0, -99.9, 7.7])
def test_codes_for_no_redshift_are_left_out_and_said(tmp_path, caplog, code):
    z = np.concatenate([Z, np.full(5, code)])
    Table({"object_id": np.arange(NUM + 5), "z_spec": z.astype(np.float32)}).write(tmp_path / "l.fits")
    labels = read_labels(tmp_path / "l.fits")
    np.testing.assert_allclose(labels.value, Z, rtol=1e-6)
    assert labels.counts["impossible"] == 5
    assert f"{code:g} (5 times)" in caplog.text


def test_other_targets_may_be_negative(tmp_path):
    mass = np.concatenate([RNG.normal(-1.0, 1.0, 50), [-1.0], np.full(4, -99.0)])
    Table({"object_id": np.arange(55), "log_ssfr": mass, "z": np.zeros(55) - 0.001}).write(
        tmp_path / "l.fits"
    )
    assert len(read_labels(tmp_path / "l.fits", column="log_ssfr")) == 51
    assert len(read_labels(tmp_path / "l.fits", column="z")) == 55


@pytest.mark.parametrize(
    ("column", "condition", "expected"),
    [
        (np.array(["13.5", "4", "--", "2"]), "q >= 3", [True, True, False, False]),
        (np.array(["13.5", "4", "", "2"]), "q != 4", [True, False, False, True]),
        (np.array([3.0, np.nan, 4.0]), "q != 4", [True, False, False]),
        (np.array(["True", "False", ""]), "q == true", [True, False, False]),
        (np.array([1, 0, 1]), "q == true", [True, False, True]),
        (np.array(["A", "4", "B"]), "q == A", [True, False, False]),
        (np.array(["A", "4", "B"]), "q == 4", [False, True, False]),
        (np.array(["STAR  ", "STAR", "GALAXY"]), "q == STAR", [True, True, False]),
        (np.array(["STAR  ", "   ", "GALAXY"]), "q != 'STAR  '", [False, False, True]),
        (np.array([2**60, 2**60 + 1]), f"q == {2**60 + 1}", [False, True]),
        (np.array([1, 2], dtype=np.uint8), "q > -3", [True, True]),
        (np.array([str(2**60), "", str(2**60 + 1)]), f"q == {2**60 + 1}", [False, False, True]),
        (np.array(["4.0", "4", "4a", ""]), "q != 4", [False, False, True, False]),
        (np.array(["T", "F", ""]), "q != 1", [False, True, False]),
        (np.array(["Y", "N", ""]), "q == true", [True, False, False]),
        (np.array(["0,0", "4,5"]), "q == 0,0", [True, False]),
        (np.array(["a or b", "b"]), "q != 'a or b'", [False, True]),
        (np.array(["it's", "b"]), 'q == "it\'s"', [True, False]),
    ],
)
def test_conditions_compare_what_is_meant(column, condition, expected):
    assert tables.matches_conditions({"q": column}, [condition], "x").tolist() == expected


@pytest.mark.parametrize(
    ("column", "condition", "word"),
    [
        (np.array(["A", "4"]), "q >= 3", "'A', which is not a number"),
        (np.array(["A", "4"]), "q >= B", "no order"),
        (np.array([1, 2]), "q.isin([1, 2])", r"COLUMN OP VALUE, as in .* or 'q in \(3, 4\)'"),
        (np.array([1, 2]), "q in ()", "COLUMN OP VALUE"),
        (np.array([1, 2]), "(q > 1", "COLUMN OP VALUE"),
        (np.array([1, 2]), "q > 1) and q", "COLUMN OP VALUE"),
        (np.array([1, 2]), "q >", "COLUMN OP VALUE"),
        (np.array([1, 2]), "3 > q < 2", "COLUMN OP VALUE"),
        (np.array([1, 2]), "not q", "compare it as in"),
        (np.array([1, 2]), "(" * 5000 + "q > 1" + ")" * 5000, "COLUMN OP VALUE"),
        (np.array(["salt"]), "q == salt and black pepper", "put quotes around text"),
        (np.array(["STAR", "QSO", "GALAXY"]), "q != STAR or QSO", "no column 'QSO'"),
        (np.array(["STAR", "QSO", "GALAXY"]), "q != STAR, q != QSO", "joined by 'and' and 'or'"),
        (np.array(["STAR", "GALAXY"]), "q != star", "no row has 'star', but 1 have 'STAR'"),
        (np.ones((2, 3)), "q > 1", "the column contains lists"),
        (np.ones((2, 3)), "q - 1 > 1", "no column 'q - 1'"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(column, condition, word):
    with pytest.raises(InputError, match=word):
        tables.matches_conditions({"q": column}, [condition], "x")


def test_labels_of_which_nothing_says_what_they_are_of_are_refused_with_what_is_needed(tmp_path):
    features = {"object_id": np.arange(5), "ra": RA[:5], "dec": DEC[:5]}
    table = Table({"z_spec": np.full(5, 0.3), "lon": RA[:5], "lat": DEC[:5]})
    table.write(tmp_path / "l.fits")
    with pytest.raises(
        InputError, match=r"no column 'object_id' to match by; .* ra and dec .degrees.: .* lat, lon"
    ):
        match_labels(features, read_labels(tmp_path / "l.fits"))
    table.rename_columns(["lon", "lat"], ["dec", "ra"])
    table["dec"] += 90.0 - table["dec"].min() + 1.0
    table.write(tmp_path / "l.fits", overwrite=True)
    with pytest.raises(InputError, match="no valid position: are ra and dec in degrees, and not swapped"):
        match_labels(features, read_labels(tmp_path / "l.fits"))


def test_identities_of_another_column_are_named_where_none_matches(tmp_path):
    features = {"object_id": 2**60 + np.arange(5)}
    table = Table({"ID": np.arange(5), "z_spec": np.full(5, 0.3), "bestObjID": features["object_id"]})
    table.write(tmp_path / "l.fits")
    with pytest.raises(InputError, match="column 'bestObjID' would match: rename it object_id"):
        match_labels(features, read_labels(tmp_path / "l.fits"))
    table.remove_column("bestObjID")
    table.write(tmp_path / "l.fits", overwrite=True)
    with pytest.raises(InputError, match=f"the first object is '{2**60}', the first label '0'"):
        match_labels(features, read_labels(tmp_path / "l.fits"))


def test_text_and_numbers_match_exactly_or_say_how(tmp_path):
    features = {"object_id": np.array(["0001", "0002"])}
    Table({"object_id": [1, 2], "z_spec": [0.1, 0.2]}).write(tmp_path / "l.fits")
    with pytest.raises(InputError, match="without leading zeros"):
        match_labels(features, read_labels(tmp_path / "l.fits"), match="id")
    found = match_labels({"object_id": np.array(["2", "1"])}, read_labels(tmp_path / "l.fits"), match="id")
    assert found.label_rows.tolist() == [1, 0]


def test_pixels_count_from_zero(tmp_path):
    x = np.arange(NUM, dtype=float)
    Table({"NUMBER": np.arange(NUM), "X_IMAGE": x + 1, "Y_IMAGE": x + 4}).write(tmp_path / "a.fits")
    found = read_catalogue(tmp_path / "a.fits")
    assert found["x"].tolist() == x.tolist()
    assert found["y"].tolist() == (x + 3).tolist()


@pytest.mark.parametrize("unit", ["pix", "arcsec", "deg"])
def test_only_pixels_are_pixels(tmp_path, unit):
    """Offsets from a centre in arcseconds were silently taken as pixels."""
    (tmp_path / "t.csv").write_text(f"id,x ({unit}),y ({unit})\n1,20.5,30.5\n")
    if unit == "pix":
        assert read_catalogue(tmp_path / "t.csv")["x"].tolist() == [20.5]
    else:
        with pytest.raises(InputError, match="no ra and dec, nor x and y"):
            read_catalogue(tmp_path / "t.csv")


def test_columns_of_journals(tmp_path):
    signs = np.where(np.arange(NUM) % 2, "-", "+")
    sky = SkyCoord(RA, np.where(signs == "-", -1, 1) * np.abs(DEC - 1.7), unit="deg")
    h, d = sky.ra.hms, sky.dec.signed_dms
    path = tmp_path / "t.csv"
    Table(
        {"RAh": h.h.astype(int), "RAm": h.m.astype(int), "RAs": h.s, "DE-": signs,
         "DEd": d.d.astype(int), "DEm": d.m.astype(int), "DEs": d.s}
    ).write(path)  # fmt: skip
    found = read_catalogue(path)
    np.testing.assert_allclose(found["ra"], sky.ra.deg, atol=1e-8)
    np.testing.assert_allclose(found["dec"], sky.dec.deg, atol=1e-8)


def test_structures_of_arrays_as_idl_writes_them(tmp_path):
    names = np.array([f"P{n:03d}" for n in range(NUM)])
    columns = {"ID": names[None], "RA": RA[None], "DEC": DEC[None], "Z": Z[None]}
    Table(columns).write(tmp_path / "primus.fits")
    labels = read_labels(tmp_path / "primus.fits", column="Z")
    np.testing.assert_array_equal(labels.value, Z)
    assert labels.columns["object_id"].tolist() == names.tolist()


def test_structures_of_arrays_may_have_other_columns(tmp_path):
    """They were refused, since positions were lists."""
    columns = {"id": IDENTITIES["small"][None], "RA": RA[None], "DEC": DEC[None], "z_spec": Z[None]}
    Table(columns | {"version": ["v1"], "edges": np.ones((1, 5))}).write(tmp_path / "t.fits")
    labels = read_labels(tmp_path / "t.fits")
    np.testing.assert_array_equal(labels.value, Z)
    assert labels.columns["version"].tolist() == ["v1"] * NUM
    assert "edges" not in labels.columns
    Table({"id": [7], "ra": [150.0], "dec": [2.0], "z_spec": [0.3], "pdf": np.ones((1, 5))}).write(
        tmp_path / "u.fits"
    )
    assert len(read_labels(tmp_path / "u.fits")) == 1  # of one object with a list


def test_fits_by_columns_as_topcat_writes_it_may_have_lists(tmp_path):
    """TOPCAT's colfits is one row whose columns list all objects, in further dimensions for lists."""
    columns = {"id": np.arange(NUM)[None], "ra": RA[None], "dec": DEC[None], "z_spec": Z[None]}
    Table({**columns, "mags": np.arange(NUM * 3.0).reshape(1, NUM, 3)}).write(
        tmp_path / "a.colfits", format="fits"
    )
    table = tables.read(tmp_path / "a.colfits")
    np.testing.assert_array_equal(table.columns["z_spec"], Z)
    np.testing.assert_array_equal(table.columns["mags"][:, 0], 3.0 * np.arange(NUM))


def test_single_precision_is_said(tmp_path, caplog):
    Table({"ra": RA.astype(np.float32), "dec": DEC, "z_spec": Z}).write(tmp_path / "l.fits")
    labels = read_labels(tmp_path / "l.fits")
    assert "single precision" in caplog.text
    np.testing.assert_allclose(labels.columns["ra"], RA, atol=1e-5)


@pytest.mark.parametrize("ending", ["fits", "vot", "h5", "ecsv", "csv", "parquet"])
def test_damaged_tables_are_one_line_or_the_truth(tmp_path, ending):
    """Bytes changed and files cut at many places: a clean error, or what still can be read."""
    whole = write(tmp_path, ending, {"object_id": IDENTITIES["small"], "ra": RA, "dec": DEC, "z_spec": Z}, {})
    content = whole.read_bytes()
    generator = np.random.default_rng(1)
    refusals = []
    for number in range(40):
        damaged = bytearray(content)
        if number % 2:
            damaged = damaged[: generator.integers(0, len(content))]
        else:
            for place in generator.integers(0, len(content), 12):
                damaged[place] = generator.integers(0, 256)
        path = tmp_path / f"damaged-{number}.{ending}"
        path.write_bytes(bytes(damaged))
        try:
            read_labels(path)
        except InputError as error:
            refusals.append((path.name, str(error)))
    assert refusals
    assert all(name in told and "\n" not in told for name, told in refusals)


@pytest.mark.parametrize("name", ["fifo.csv", "labels.xlsx", "labels.pkl", "bomb.csv.gz"])
def test_what_is_no_table_is_refused(tmp_path, name):
    path = tmp_path / name
    if name.startswith("fifo"):
        os.mkfifo(path)
    elif name.startswith("bomb"):
        path.write_bytes(gzip.compress(b"a,b\n" + b"0" * (80 << 20)))
    else:
        path.write_bytes(b"PK\3\4\0\0" if name.endswith("xlsx") else pickle.dumps({"z_spec": Z}))
    with pytest.raises(InputError, match=name):
        tables.read_table(path)


VOTABLE = """<?xml version="1.0"?>
{doctype}<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>
<FIELD name="object_id" datatype="long"/>
<DATA><BINARY>{stream}</BINARY></DATA></TABLE></RESOURCE></VOTABLE>"""


@pytest.mark.parametrize("way", ["plain", "entity"])
@pytest.mark.parametrize("place", ["file://{secret}", "http://127.0.0.1:9/table"])
def test_a_votable_shows_nothing_but_its_own_bytes(tmp_path, way, place):
    """Astropy follows a STREAM's address to any file of the reader's, and into the net."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 7 + b"\7")
    path, address = tmp_path / "t.vot", place.format(secret=secret)
    own = VOTABLE.format(doctype="", stream='<STREAM encoding="base64">AAAAAAAAAAc=</STREAM>')
    path.write_text(own)
    assert tables.read_table(path)["object_id"].tolist() == [7]
    stream, doctype = f'<STREAM href="{address}"/>', ""
    if way == "entity":  # the element is made by the parser, and stands nowhere in the file
        hidden = stream.replace("<", "&#60;").replace("href", "h&#114;ef")
        doctype, stream = f"<!DOCTYPE VOTABLE [<!ENTITY x '{hidden}'>]>", "&x;"
    path.write_text(VOTABLE.format(doctype=doctype, stream=stream))
    with pytest.raises(InputError, match=r"t\.vot: (its data are in another file|cannot read this table)"):
        tables.read_table(path)


def test_fits_inside_a_votable_is_called_so(tmp_path):
    data = '<FITS extnum="1"><STREAM encoding="base64">U0lNUExF</STREAM></FITS>'
    text = VOTABLE.format(doctype="", stream="").replace("<BINARY></BINARY>", data)
    (tmp_path / "t.vot").write_text(text)
    with pytest.raises(InputError, match=r"t\.vot: its data are FITS inside the VOTable; save it as FITS"):
        tables.read(tmp_path / "t.vot")


def test_hdf5_groups_that_hold_themselves_and_texts_without_end(tmp_path):
    path = tmp_path / "t.h5"
    with h5py.File(path, "w") as file:
        file["object_id"] = np.arange(3)
        for number in range(50):
            file[f"g{number:02d}"] = file["/"]
    assert tables.read_table(path)["object_id"].tolist() == [0, 1, 2]
    with h5py.File(path, "w") as file:
        file["object_id"] = np.arange(500)
        texts = file.create_dataset("name", data=["x" * (1 << 20)] + ["y"] * 499, dtype=h5py.string_dtype())
        place = texts.id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 16 * 500] = content[place : place + 16] * 500  # every row names one megabyte
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"t\.h5: /name holds strings of up to 1048576 characters"):
        tables.read_table(path)


def test_parquet_that_declares_far_more_than_it_holds_and_pipes(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"object_id": np.zeros(2_000_000, np.int8)}), path)
    assert len(tables.read_table(path)["object_id"]) == 2_000_000
    monkeypatch.setattr("deepfits.tables.parquet.MOST_OF_SMALL_FILES", 1 << 20)
    with pytest.raises(InputError, match=r"t\.parquet: declares 2000000 rows in a file of \d+ bytes"):
        tables.read_table(path)
    os.mkfifo(tmp_path / "u.parquet")
    with pytest.raises(InputError, match=r"u\.parquet: is not a regular file"):
        tables.read_table(tmp_path)


def test_truth_values_that_lack_in_fits_are_gaps(tmp_path):
    """A byte of 0, as TOPCAT writes it, is neither T nor F; it was false."""
    path = tmp_path / "l.fits"
    Table({"is_star": [True, False, False], "id": [1, 2, 3]}).write(path)
    with fits.open(path) as hdus:
        width, start = hdus[1].header["NAXIS1"], hdus[1]._data_offset
    content = bytearray(path.read_bytes())
    assert content[start + 2 * width] == ord("F")
    content[start + 2 * width] = 0
    path.write_bytes(content)
    columns = tables.read_table(path)
    assert columns["is_star"].tolist() == ["true", "false", ""]
    assert tables.matches_conditions(columns, "is_star != true", path).tolist() == [False, True, False]


def test_gaps_of_scaled_columns_are_gaps(tmp_path):
    """TNULL is a number as it is stored, before TSCAL and TZERO."""
    hdu = fits.BinTableHDU.from_columns([
        fits.Column("MAG", "I", array=np.array([100, 200, -32768], "i2"), null=-32768),
        fits.Column("COUNT", "I", array=np.array([1, 2, 65535], "u2"), bzero=32768, null=32767),
        fits.Column("OBJID", "K", array=np.array([2**63 + 5, 99, 0], "u8"), bzero=2**63, null=-(2**63)),
        fits.Column("Z", "E", array=np.array([0.5, -0.9999995e9, -99], "f4")),
    ])  # fmt: skip
    hdu.header["TSCAL1"], hdu.header["TZERO1"] = 0.001, 20.0
    hdu.header["TNULL4"] = -0.9999995e9  # not allowed for floats
    hdu.writeto(tmp_path / "a.fits")
    found = tables.read_table(tmp_path / "a.fits")
    np.testing.assert_allclose(found["MAG"], [20.1, 20.2, np.nan])
    np.testing.assert_array_equal(found["COUNT"], [1, 2, np.nan])
    assert found["OBJID"].tolist() == [str(2**63 + 5), "99", ""]
    np.testing.assert_array_equal(found["Z"], [0.5, np.nan, -99])


@pytest.mark.parametrize("kind", [Table, QTable])
def test_units_that_astropy_writes_into_parquet_count(tmp_path, kind):
    columns = {"ra": SKY.ra.hourangle * u.hourangle, "dec": SKY.dec.radian * u.rad}
    kind(columns).write(tmp_path / "a.parquet")
    found = read_catalogue(tmp_path / "a.parquet")
    np.testing.assert_allclose(found["ra"], RA, atol=1e-9)
    np.testing.assert_allclose(found["dec"], DEC, atol=1e-9)


def test_an_index_of_pandas_that_counts_is_a_column_where_it_has_a_name(tmp_path):
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"ra": RA}, index=IDENTITIES["small"] * 7).to_parquet(tmp_path / "b.parquet")
    assert tables.read_table(tmp_path / "b.parquet")["index"].tolist() == (IDENTITIES["small"] * 7).tolist()
    for name, first in (("object_id", 100), (None, 1)):
        frame = pd.DataFrame({"ra": RA, "dec": DEC}, index=pd.RangeIndex(100, 100 + NUM, name=name))
        frame.to_parquet(tmp_path / "a.parquet")
        found = read_catalogue(tmp_path / "a.parquet")["object_id"]
        assert found.tolist() == list(range(first, first + NUM))


@pytest.mark.parametrize("status", ["OVERFLOW", "ERROR"])
def test_what_a_service_says_of_its_answer_counts(tmp_path, caplog, status):
    Table({"id": [1], "ra": RA[:1], "dec": DEC[:1]}).write(tmp_path / "a.vot", format="votable")
    text = (tmp_path / "a.vot").read_text()
    said = f'<INFO name="QUERY_STATUS" value="{status}">too many rows</INFO></RESOURCE>'
    (tmp_path / "a.vot").write_text(text.replace("</RESOURCE>", said))
    if status == "ERROR":
        with pytest.raises(InputError, match="error of the service instead of data: 'too many rows'"):
            read_catalogue(tmp_path / "a.vot")
        return
    assert len(read_catalogue(tmp_path / "a.vot")["ra"]) == 1
    assert "a.vot: the service truncated the result (OVERFLOW)" in caplog.text


def test_files_of_a_data_set_may_differ_in_the_width_of_numbers(tmp_path):
    for name, kind in (("a", pa.float32()), ("b", pa.float64()), ("c", pa.int64())):
        pq.write_table(pa.table({"id": [1], "z_spec": pa.array([1], kind)}), tmp_path / f"{name}.parquet")
    assert tables.read_table(tmp_path)["z_spec"].tolist() == [1.0, 1.0, 1.0]
    for name, kind in (("a", pa.float64()), ("b", pa.int64())):
        pq.write_table(
            pa.table({"id": pa.array([2**53 + 1 if name == "b" else 1], kind)}), tmp_path / f"{name}.parquet"
        )
    (tmp_path / "c.parquet").unlink()
    differ = r"a column has other types in other files .*; write all files with the same types"
    with pytest.raises(InputError, match=differ):
        tables.read_table(tmp_path)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=differ):
        tables.read_table(tmp_path)


def test_a_first_row_of_words_is_a_row(tmp_path):
    (tmp_path / "a.csv").write_text("name,note\nNGC 1,faint\nNGC 2,12\n")
    assert tables.read_table(tmp_path / "a.csv")["note"].tolist() == ["faint", "12"]


def test_objects_of_the_legacy_surveys_have_the_identity_that_desi_gives_them(tmp_path):
    columns = {
        "RELEASE": [9010, 9010],
        "BRICKID": [330368, 330369],
        "OBJID": [5, 5],
        "RA": RA[:2],
        "DEC": DEC[:2],
    }
    Table(columns).write(tmp_path / "a.fits")
    identity = read_catalogue(tmp_path / "a.fits")["object_id"]
    assert identity.tolist() == [9010 * 2**42 + brick * 2**22 + 5 for brick in (330368, 330369)]
    Table(columns | {"TARGETID": [7, 8]}).write(tmp_path / "b.fits")
    assert read_catalogue(tmp_path / "b.fits")["object_id"].tolist() == [7, 8]


def test_gaps_that_hsc_marks_in_columns_of_their_own_and_lists_of_one(tmp_path):
    is_gap = np.arange(NUM) % 3 == 0
    columns = {
        "object_id": np.arange(NUM),
        "z_spec": np.where(is_gap, 0, Z)[:, None],
        "z_spec_isnull": is_gap,
    }
    Table(columns).write(tmp_path / "a.fits")
    labels = read_labels(tmp_path / "a.fits")
    np.testing.assert_array_equal(labels.value, Z[~is_gap])
    assert labels.counts["not_finite"] == is_gap.sum()


@pytest.mark.parametrize("words", [("f", "t"), ("0", "1"), ("False", "True")])
def test_gaps_that_hsc_marks_are_gaps_however_text_writes_truth(tmp_path, words):
    """The service's CSV writes t and f: redshifts of 0 counted."""
    is_gap = np.arange(NUM) % 3 == 0
    rows = "".join(f"{n},{0 if is_gap[n] else Z[n]},{words[int(is_gap[n])]}\n" for n in range(NUM))
    (tmp_path / "a.csv").write_text(f"# object_id,specz,specz_isnull\n{rows}")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.csv", column="specz").value, Z[~is_gap])


def test_gaps_that_astropy_marks_in_hdf5_are_gaps(tmp_path):
    """Written as users do, without its note, masked columns have what lay under the mask."""
    table = Table({"object_id": np.arange(NUM), "z_spec": MaskedColumn(Z, mask=np.arange(NUM) == 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.write(tmp_path / "a.h5", path="data")
    labels = read_labels(tmp_path / "a.h5")
    np.testing.assert_array_equal(labels.value, np.delete(Z, 2))


def test_fits_columns_with_axes_of_length_one(tmp_path):
    columns = [
        fits.Column("id", "K", array=[1, 2]),
        fits.Column("z_spec", "1E", array=[[0.5], [1.5]], dim="(1,1)"),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    assert read_labels(tmp_path / "t.fits").value.tolist() == [0.5, 1.5]


def test_columns_as_vaex_writes_them(tmp_path):
    """Each is a group; where values lack, a mask lies in it."""
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        for name, values in (("id", np.arange(NUM)), ("ra", RA), ("dec", DEC), ("z_spec", Z)):
            file[f"table/columns/{name}/data"] = values
        file["table/columns/z_spec/mask"] = (np.arange(NUM) == 3).astype(np.uint8)
    labels = read_labels(tmp_path / "t.hdf5")
    keep = np.arange(NUM) != 3
    np.testing.assert_array_equal(labels.value, Z[keep])
    np.testing.assert_array_equal(labels.columns["object_id"], np.arange(NUM)[keep])
    np.testing.assert_array_equal(labels.columns["ra"], RA[keep])
    with h5py.File(tmp_path / "s.h5", "w") as file:  # a structure is a table of its own
        file["cat/data"] = np.array([(1, 0.5)], dtype=[("id", "i8"), ("z_spec", "f8")])
    assert read_labels(tmp_path / "s.h5").value.tolist() == [0.5]
    with h5py.File(tmp_path / "t.hdf5", "a") as file:
        del file["table/columns/ra/data"]
        file["table/columns/ra/data"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(InputError, match="only data of the file itself"):
        tables.read_table(tmp_path / "t.hdf5")


@pytest.mark.parametrize(("unit", "is_named"), [(1e5, True), (30.0, False)])
def test_only_large_values_may_be_velocities(tmp_path, unit, is_named):
    """Magnitudes of 21 and more are neither redshifts nor velocities."""
    tables.write_table(tmp_path / "t.fits", {"id": IDENTITIES["small"], "Z": unit * (1 + Z)})
    with pytest.raises(InputError, match="none of 24 rows can be used as a label") as caught:
        read_labels(tmp_path / "t.fits", column="Z")
    assert ("velocities in km/s" in str(caught.value)) == is_named


@pytest.mark.parametrize("ending", ["csv", "fits", "parquet"])
def test_pointers_of_git_lfs_are_named(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(InputError, match=rf"t\.{ending}: a pointer of Git LFS.*git lfs pull"):
        tables.read_table(path)


@pytest.mark.parametrize(("unit", "written"), [("Å", "Angstrom"), ("μJy", "uJy"), ("mag(AB)", "mag(AB)")])
def test_units_beyond_ascii_are_written_in_words_in_fits(tmp_path, unit, written):
    path = tables.write_table(tmp_path / "t.fits", {"a": Z}, describe=lambda _: Column(unit=unit))
    assert fits.getheader(path, 1)["TUNIT1"] == written


@pytest.mark.parametrize("ending", ["ecsv", "h5", "memory"])
def test_what_astropy_masks_is_missing(tmp_path, ending):
    """Values behind the masks of its `Masked` arrays, and of positions made of them, were used."""
    is_gap = np.arange(NUM) % 5 == 0
    given = QTable(
        {
            "coord": SkyCoord(Masked(RA * u.deg, mask=is_gap), DEC * u.deg),
            "z_spec": Masked(Z, mask=is_gap),
            "number": Masked(np.arange(NUM), mask=is_gap),
            "name": Masked(IDENTITIES["names"], mask=is_gap),
            "observed": Time(Masked(59000 + Z, mask=is_gap), format="mjd"),
        }
    )
    path = tmp_path / f"t.{ending}"
    if ending == "ecsv":
        given.write(path)
    elif ending == "h5":
        given.write(path, path="t", serialize_meta=True)
    table = tables.from_memory(given, "t") if ending == "memory" else tables.read(path)
    for name, values in {"z_spec": Z, "number": np.arange(NUM), "observed": 59000 + Z, "ra": RA}.items():
        np.testing.assert_allclose(table.columns[name], np.where(is_gap, np.nan, values), rtol=1e-12)
    assert table.columns["name"].tolist() == np.where(is_gap, "", IDENTITIES["names"]).tolist()
    assert tables.positions(table.columns, table.units, "t").is_known.tolist() == (~is_gap).tolist()


@pytest.mark.parametrize(
    ("name", "style", "is_taken"),
    [
        ("coord1 (ICRS,J2000/2000)", "hms", True),
        ("what", "hms", True),
        ("what", "colons", True),
        ("RA, Dec", "letters", True),
        ("position", "({:.7f}, {:.7f})", True),
        ("radec", "{:.7f} {:.7f}", True),
        ("range", "{:.7f} {:.7f}", False),
        ("coord3 (FK4,B1950/1950)", "hms", True),
        ("coord4 (Gal,J2000/2000)", "{:.7f} {:+.7f}", True),
        ("coord (SGal)", "{:.7f} {:+.7f}", False),
        ("galaxy position", "({:.7f}, {:.7f})", True),
    ],
)
def test_positions_in_one_column(tmp_path, caplog, name, style, is_taken):
    rng = np.random.default_rng(3)
    sky = SkyCoord(rng.uniform(0, 360, 30), rng.uniform(-80, 80, 30), unit="deg")
    frame = "fk4" if "FK4" in name else "galactic" if "Gal," in name else "icrs"
    angles = sky.transform_to(frame).data.represent_as(UnitSphericalRepresentation)
    text = [style.format(*place) for place in zip(angles.lon.deg, angles.lat.deg, strict=True)]
    if "{" not in style:
        how = {"hms": {"sep": " "}, "colons": {"sep": ":"}, "letters": {}}[style]
        text = sky.transform_to(frame).to_string("hmsdms", precision=4, **how)
    text[4] = ""
    Table({"name": np.arange(30).astype(str), name: text}).write(tmp_path / "t.ecsv")
    table = tables.read(tmp_path / "t.ecsv")
    found = tables.positions(table.columns, table.units, "t")
    assert (found is not None) == is_taken
    if found is not None:
        rows = np.flatnonzero(np.arange(30) != 4)
        assert np.isnan(found.ra[4])
        assert SkyCoord(found.ra[rows], found.dec[rows], unit="deg").separation(sky[rows]).arcsec.max() < 0.01
        assert f"{name} is taken as the positions" in caplog.text
        assert name not in tables.with_degrees(table.columns, found)


def test_missing_values_of_simbad(tmp_path):
    (tmp_path / "t.tsv").write_text("main_id\tz_value\tcz\nM 31\t-0.001\t~\nNGC 1\t ~ \t4545\n")
    found = tables.read_table(tmp_path / "t.tsv")
    np.testing.assert_array_equal(found["z_value"], [-0.001, np.nan])
    np.testing.assert_array_equal(found["cz"], [np.nan, 4545])


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("kind", ["polars", "dask", "lsdb"])
def test_tables_that_are_not_computed_yet_are(kind):
    frame = pd.DataFrame({"id": [2**60 + 1, 7, 8], "ra": [1.0, 2.0, 3.0], "dec": [0.5, 0.6, 0.7]})
    library = pytest.importorskip({"dask": "dask.dataframe"}.get(kind, kind))
    if kind == "polars":
        given = library.from_pandas(frame).lazy()
    elif kind == "dask":
        given = library.from_pandas(frame, npartitions=2)
    else:
        given = library.from_dataframe(frame, ra_column="ra", dec_column="dec")
    found = tables.from_memory(given, "t").columns
    order = np.argsort(found["ra"])
    assert found["id"][order].tolist() == [2**60 + 1, 7, 8]
    assert found["dec"][order].tolist() == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("ending", ["csv", "ecsv"])
def test_text_is_written_as_utf8_in_every_locale(tmp_path, ending):
    out = tmp_path / f"t.{ending}"
    code = (
        "import sys, numpy as np; from deepfits.tables import write_table; "
        r"columns = {'reason': np.array(['g \u2212 r', '\xe9toile']), '\u03bc': np.arange(2.0)}; "
        "write_table(sys.argv[1], columns)"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(out)], check=True, env={**os.environ, **plain})
    found = tables.read_table(out)
    assert found["reason"].tolist() == ["g − r", "étoile"]
    assert found["μ"].tolist() == [0, 1]


def test_numbers_among_none_in_tables_of_astropy():
    big = 2**60 + 1
    given = Table(
        {
            "z_spec": np.array([0.1, None, 1], object),
            "id": np.ma.array(np.array([big, None, 7], object), mask=[0, 0, 1]),
            "good": np.array([True, None, False], object),
            "name": np.array(["a", None, "b"], object),
            "none": np.array([None, None, None], object),
            "odd": np.array([1, None, 2**70], object),
        }
    )
    found = tables.from_memory(given, "t")
    np.testing.assert_array_equal(found.columns["z_spec"], [0.1, np.nan, 1])
    assert found.columns["id"].tolist() == [str(big), "", ""]
    assert found.columns["good"].tolist() == ["true", "", "false"]
    assert found.columns["name"].tolist() == ["a", "", "b"]
    assert found.columns["none"].tolist() == ["", "", ""]
    assert list(found.unused) == ["odd"]


def test_fits_tables_in_memory_are_as_in_their_files(tmp_path):
    """What `fits.getdata` and `fits.open` give keeps TNULL, which `Table(...)` of it ignores."""
    columns = [
        fits.Column("id", "K", array=IDENTITIES["small"], null=7),
        fits.Column("count", "I", array=np.arange(NUM, dtype=np.uint16), bzero=2**15),
        fits.Column("name", "20A", array=IDENTITIES["names"]),
        fits.Column("is_good", "L", array=np.arange(NUM) % 2 == 0),
        fits.Column("mag", "E", array=Z, unit="mag"),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    expected = tables.read(tmp_path / "t.fits")
    assert np.flatnonzero(np.isnan(expected.columns["id"])).tolist() == [6]
    with fits.open(tmp_path / "t.fits") as hdus:
        for given in (hdus[1], hdus[1].data, fits.getdata(tmp_path / "t.fits")):
            for _ in range(2):  # it is left as it was
                found = tables.from_memory(given, "t")
                assert found.units == {"mag": "mag"}
                assert found.columns.keys() == expected.columns.keys()
                for name, values in expected.columns.items():
                    np.testing.assert_array_equal(found.columns[name], values)


def test_columns_of_pandas_that_arrow_lacks_are_named():
    frame = pd.DataFrame({"id": [1, 2], "waves": [1j, 2j], "z": [0.1, None]})
    found = tables.from_memory(frame, "t")
    assert found.unused == {"waves": "complex128"}
    np.testing.assert_array_equal(found.columns["z"], [0.1, np.nan])


def test_right_ascensions_about_the_origin(tmp_path):
    """They may go on beyond 360 or below 0; spread over more than a circle, they are no degrees."""
    around = np.array([350.0, 359.5, 360.0, 360.5, 375.0])
    for ra in (around, around - 360, around - 20):
        found = tables.positions({"ra": ra, "dec": np.linspace(-1, 1, 5)}, {}, "t")
        np.testing.assert_allclose(found.ra, np.where(ra == 360, 360, ra % 360))
        assert not found.lost
    found = tables.positions({"ra": np.append(around, 5.0), "dec": np.zeros(6) + 1.5}, {}, "t")
    assert found.is_known.tolist() == [True, True, True, False, False, True]
    assert "2 objects with dec beyond ±90 or ra beyond 360" in found.lost


def test_text_as_vaex_writes_it(tmp_path):
    """All letters in one array, and where each entry begins; identities were lost without a word."""
    names = ["M 31", "", "NGC 5194é", *(f"J{n}" for n in range(6))]
    letters = [name.encode() for name in names]
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        columns = file.create_group("table/columns")
        columns["z_spec/data"] = Z[: len(names)]
        for name, bitmap in (("id", None), ("note", [0b11111011, 0b1])):
            columns[f"{name}/data"] = np.frombuffer(b"".join(letters), np.uint8)
            columns[f"{name}/indices"] = np.cumsum([0, *map(len, letters)], dtype=np.int32)
            if bitmap is not None:
                columns[f"{name}/null_bitmap"] = np.array(bitmap, np.uint8)
    found = tables.read_table(tmp_path / "t.hdf5")
    assert found["id"].tolist() == names
    assert found["note"].tolist() == [*names[:2], "", *names[3:]]
    assert read_labels(tmp_path / "t.hdf5").columns["object_id"].tolist() == names
    with h5py.File(tmp_path / "t.hdf5", "a") as file:
        file["table/columns/id/indices"][-1] = 10**6
    with pytest.raises(InputError, match=r"t\.hdf5: damaged HDF5 file"):
        tables.read_table(tmp_path / "t.hdf5")


def test_text_of_no_known_ending_that_names_no_objects_is_no_table(tmp_path):
    for number, text in enumerate(('{"id": 1, "ra": 150.1}', "import numpy\nprint(1)\n", "a b\n1 2\n")):
        path = tmp_path / f"{number}.py"
        path.write_text(text)
        with pytest.raises(InputError, match=r"\.py: not a table in a known format"):
            tables.read_table(path)


def test_minus_zero_degrees_are_south(tmp_path):
    (tmp_path / "a.csv").write_text("RAh,RAm,RAs,DEd,DEm,DEs\n10,0,4.0,-0,12,36.0\n10,0,8.0,-5,12,36.0\n")
    found = read_catalogue(tmp_path / "a.csv")
    np.testing.assert_allclose(found["dec"], [-0.21, -5.21])


def test_zero_degrees_that_may_be_south_are_not_used(tmp_path, caplog):
    """Integers cannot be -0; objects just south of the equator were placed north of it."""
    parts = {"RAh": [10, 10, 10], "RAm": [0, 0, 0], "RAs": [4.0, 8.0, 9.0]}
    declination = {"DEd": [0, -5, 0], "DEm": [12, 12, -12], "DEs": [36.0, 36.0, -36.0]}
    Table(parts | declination).write(tmp_path / "a.fits")
    np.testing.assert_allclose(read_catalogue(tmp_path / "a.fits")["dec"], [np.nan, -5.21, -0.21])
    assert "1 declinations are not used: DEd is 0, without a sign" in caplog.text
    caplog.clear()
    Table(parts | declination | {"DEd": [0, 5, 0]}).write(tmp_path / "north.fits")
    np.testing.assert_allclose(read_catalogue(tmp_path / "north.fits")["dec"], [0.21, 5.21, -0.21])
    assert not caplog.text


def test_identities_with_an_e_are_no_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("id,ra,dec\n12e5,150.1,2.0\n13e7,150.2,2.1\n0x1F,150.3,2.1\n")
    assert read_catalogue(tmp_path / "a.csv")["object_id"].tolist() == ["12e5", "13e7", "0x1F"]
    (tmp_path / "b.csv").write_text("id,ra,dec\n12e5,150.1,2.0\n13e7,150.2,2.1\n")
    assert read_catalogue(tmp_path / "b.csv")["object_id"].tolist() == ["12e5", "13e7"]


@pytest.mark.parametrize("head", ["# id;note;ra;dec", "id;note;ra;dec\n;;deg;deg"])
def test_rows_of_decimal_commas_are_no_header(tmp_path, head):
    """The first row below a header in a comment was taken as the header, and a row of units as an object."""
    rows = "7;b-c;150,1;2,5\n9;12;150,2;2,6\n"
    (tmp_path / "a.csv").write_text(f"{head}\n{rows}")
    found = read_catalogue(tmp_path / "a.csv")
    assert found["object_id"].tolist() == [7, 9]
    assert found["ra"].tolist() == [150.1, 150.2]
    assert found["note"].tolist() == ["b-c", "12"]


def test_commas_are_decimal_ones_in_all_columns_of_a_table_or_in_none(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id;ra;dec;mag;near\n1;150,123;2,5;21,345;4,17\n2;150,223;2,6;22,123;a,b\n"
    )
    found = read_catalogue(tmp_path / "a.csv")
    assert found["ra"].tolist() == [150.123, 150.223]
    assert found["mag"].tolist() == [21.345, 22.123]
    assert found["near"].tolist() == ["4,17", "a,b"]
    (tmp_path / "b.csv").write_text("id;ra;dec;flux\n1;150.1;2.5;12,345\n2;150.2;2.6;22,123\n")
    assert read_catalogue(tmp_path / "b.csv")["flux"].dtype.kind == "U"  # thousands, or not: nobody knows


def test_structures_of_parquet_are_columns(tmp_path):
    table = pa.table({"id": [1, 2], "mag": [{"g": 20.5, "err": {"g": 0.1}}, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = tables.read_table(tmp_path / "a.parquet")
    np.testing.assert_array_equal(found["mag.g"], [20.5, np.nan])
    np.testing.assert_array_equal(found["mag.err.g"], [0.1, np.nan])


@pytest.mark.parametrize("rule", ["", "|----|-------|:----:|\n"])
def test_lines_between_bars(tmp_path, rule):
    rows = "".join(f"| {n} | {a} | {b} |\n" for n, (a, b) in enumerate(zip(RA, DEC, strict=True)))
    (tmp_path / "a.txt").write_text(f"| id | ra | dec |\n{rule}{rows}")
    found = read_catalogue(tmp_path / "a.txt")
    assert found["object_id"].tolist() == list(range(NUM))
    np.testing.assert_array_equal(found["dec"], DEC)


def test_the_header_of_lephare_of_today(tmp_path):
    """Elements of vectors are written as a range without a blank (it was not recognised)."""
    head = "# FORMAT : 1\n# IDENT 1 Z_BEST 2 MAG_OBS()3-5 ERR_MAG_OBS()6-8 ZSPEC 9\n"
    rows = "".join(f"{n:9d} {z:.4f} 18.1 18.2 18.3 0.1 0.2 0.3 -99.9\n" for n, z in enumerate(Z))
    (tmp_path / "zphot.out").write_text(head + rows)
    labels = read_labels(tmp_path / "zphot.out", column="Z_BEST")
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_array_equal(labels.columns["object_id"], np.arange(NUM))
    assert labels.columns["ERR_MAG_OBS()_1"].tolist() == [0.2] * NUM


@pytest.mark.parametrize(
    "form",
    ["ipac", "rst", "fixed_width", "fixed_width_two_line", "latex", "aastex", "mrt", "rdb", "qdp", "tab"],
)
def test_text_in_the_formats_of_astropy(tmp_path, form):
    columns = {"id": IDENTITIES["beyond 2^53"], "ra": RA, "dec": DEC, "z": Z}
    Table(columns).write(tmp_path / "t.txt", format=f"ascii.{form}")
    labels = read_labels(tmp_path / "t.txt", column="z")
    np.testing.assert_allclose(labels.value, Z, atol=1e-7)
    np.testing.assert_allclose(labels.columns["ra"], RA, atol=1e-7)
    np.testing.assert_array_equal(labels.columns["object_id"], IDENTITIES["beyond 2^53"])


@pytest.mark.parametrize("form", ["rst", "fixed_width_two_line", "print", "overflowing"])
def test_a_rule_says_where_columns_are(tmp_path, form):
    """Entries were separated by blanks: with ``NGC 12`` and an empty q, z was 3."""
    columns = {"ra": RA, "z_spec": Z, "dec": DEC, "q": ["", *["3"] * (NUM - 1)]}
    table = Table(columns | {"name": [f"NGC {number}" for number in range(NUM)], "more": Z})
    path = tmp_path / "t.txt"
    if form == "print":
        path.write_text("\n".join(table.pformat(max_lines=-1, max_width=-1)))
    else:
        table.write(path, format=f"ascii.{'rst' if form == 'overflowing' else form}")
    if form == "overflowing":  # reStructuredText allows that of the last column
        path.write_text(re.sub(r"(?m)=+$", "==", path.read_text()))
    found = read_labels(path)
    np.testing.assert_allclose(found.value, Z, atol=1e-7)
    np.testing.assert_allclose(found.columns["more"], Z, atol=1e-7)
    assert found.columns["name"].tolist() == table["name"].tolist()
    np.testing.assert_array_equal(found.columns["q"], [np.nan, *[3] * (NUM - 1)])


def test_binary_votables_whose_data_have_letters_of_a_link(tmp_path):
    """Each megabyte has ``href`` with a chance of a few per cent: such files were refused."""
    letters = base64.b64decode("href") * 4
    codes = {f"c{k}": np.full(NUM, int.from_bytes(letters[k : k + 8], "big", signed=True)) for k in range(3)}
    tables.write_table(tmp_path / "t.vot", {"z_spec": Z, **codes})
    assert "href" in (tmp_path / "t.vot").read_text()
    found = read_labels(tmp_path / "t.vot")
    np.testing.assert_array_equal(found.columns["c0"], codes["c0"])
    assert found.value.tolist() == Z.tolist()


def test_letters_beyond_ascii_in_bytes_of_hdf5(tmp_path):
    """They were all the same, so that identities that differ in them were, too."""
    names = [f"{letter} Cen" for letter in "αβγ"]
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["id"], file["z_spec"] = np.char.encode(names, "utf-8"), Z[:3]
    assert read_labels(tmp_path / "t.h5").columns["object_id"].tolist() == names


def test_json_lines_with_a_single_row(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": 5, "z_spec": 0.5, "name": null}\n')
    found = read_labels(tmp_path / "t.jsonl")
    assert (found.columns["object_id"].tolist(), found.value.tolist()) == ([5], [0.5])


@pytest.mark.parametrize("name", ["zcat.fits.csv", "zcat.fits.csv.gz", "my.fitted.txt", "zcat.fits"])
@pytest.mark.parametrize("last", ["(24 rows affected)", "24 rows in set (0.01 sec)", "24 rows selected."])
def test_text_whose_name_mentions_fits_and_whose_last_line_counts_the_rows(tmp_path, name, last):
    rows = [f"{number},{ra},{dec},{z}" for number, ra, dec, z in zip(range(NUM), RA, DEC, Z, strict=True)]
    content = "\n".join(["id,ra,dec,z_spec", *rows, "", last]).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = read_labels(tmp_path / name)
    assert (found.value.tolist(), found.columns["object_id"].tolist()) == (Z.tolist(), list(range(NUM)))


SIMBAD = """C.D.S.  -  SIMBAD4 rel 1.8  -  2023.05.11CEST10:11:12

region(circle,ICRS,150.1 +2.2,10m)
----------------------------------

Number of objects : 24

# |dist(asec)| identifier |typ|   coord1 (ICRS,J2000/2000)   |Mag U |redshift|#bib
--|----------|------------|---|------------------------------|------|--------|----
"""
MYSQL = "+------+-----+----+--------+\n"


@pytest.mark.parametrize(
    ("before", "row", "after"),
    [
        (SIMBAD, "{0:<2}|{0:10.2f}|NAME {0}|G  |{3} {4}|     ~|{5}|   2\n", "=" * 80 + "\n\n"),
        (f"mysql> select * from t;\n{MYSQL}| id | ra | dec | redshift |\n{MYSQL}",
         "| {0} | {1} | {2} | {5} |\n", f"{MYSQL}24 rows in set (0.00 sec)\n"),
        (f"{MYSQL}|  id  | ra | dec | redshift |\n{MYSQL}",
         "| {0} | {1} | {2} | {5} |\n", f"{MYSQL}(24 rows)\n"),
        (" id |  ra  | dec  | redshift \n----+------+------+----------\n",
         " {0} | {1} | {2} | {5}\n", "(24 rows)\n"),
        ("┌────┬────┬────┬────┐\n│ id │ ra │ dec │ redshift │\n│ int64 │ double │ double │ double │\n"
         "├────┼────┼────┼────┤\n", "│ {0} │ {1} │ {2} │ {5} │\n", "└────┴────┴────┴────┘\n"),
        ("Table of redshifts\n\n| id | ra | dec | redshift |\n|---|---:|---:|:--|\n",
         "| {0} | {1} | {2} | {5} |\n", "\nOf 2020.\n"),
        ("Skycat Catalog\n# Config\nserv_type: catalog\nra_col: 1\ndec_col: 2\nlong_name: a\n# End\n\n"
         "id\tra\tdec\tredshift\n--\t--\t---\t--------\n", "{0}\t{1}\t{2}\t{5}\n", "EOD\n"),
        ("<HEADER>\ntable_name = t\nfield[id] = int4\nfield[ra] = float8:.8f_deg\nfield[dec] = float8\n"
         "field[redshift] = float8\nline[1] = id ra dec redshift\n<DATA>\n", "{0}|{1}|{2}|{5}|\n", "<END>\n"),
    ],
)  # fmt: skip
def test_tables_as_databases_and_services_print_them(tmp_path, before, row, after):
    hms, dms = (
        angle.to_string(sep=" ", precision=6, pad=True) for angle in (SKY.ra.to("hourangle"), SKY.dec)
    )
    columns = zip(range(1, NUM + 1), RA, DEC, hms, np.char.add("+", dms), Z, strict=True)
    (tmp_path / "t.txt").write_text(before + "".join(row.format(*entries) for entries in columns) + after)
    labels = read_labels(tmp_path / "t.txt", column="redshift")
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_allclose(labels.columns["ra"], RA, atol=1e-7)
    np.testing.assert_allclose(labels.columns["dec"], DEC, atol=1e-7)


@pytest.mark.parametrize("name", ["ustar", "rootHaloID", "SR_mag", "label_1"])
def test_text_that_begins_like_other_files_is_text(tmp_path, name):
    (tmp_path / "t.csv").write_text(f"{name},ra,dec\n7,150.1,2.1\n7,150.2,2.2\n")
    found = read_catalogue(tmp_path / "t.csv")
    assert found[name].tolist() == [7, 7]
    assert found["object_id"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("stated", "missing"),
    [("?", ""), ("", ""), ("?", "---"), ("?", "..."), ("?", "******"), ("?=-1", "-1.000"), ("?=9", "9.0000")],
)
@pytest.mark.parametrize("has_readme", [False, True])
def test_missing_entries_of_tables_that_journals_describe(tmp_path, stated, missing, has_readme):
    """Astropy compares what the description states as text, and fails on what it does not state."""
    rule = "-" * 80
    description = [
        "Byte-by-byte Description of file: t.dat", rule,
        "   Bytes Format Units   Label   Explanations", rule,
        "   1-  4 I4     ---     ID      Number",
        f"   6- 12 F7.4   kpc     Size    {stated} Half-light radius",
        f"  14- 20 F7.4   ---     z       {stated} Redshift", rule,
    ]  # fmt: skip
    entries = [f"{value:7.4f}" for value in Z]
    entries[3] = missing.rjust(7)
    rows = [f"{number:04d} {entry} {entry}" for number, entry in enumerate(entries)]
    path = tmp_path / "t.dat"
    if has_readme:
        (tmp_path / "ReadMe").write_text("\n".join([*description, ""]))
        path.write_text("\n".join([*rows, ""]))
    else:
        path.write_text("\n".join(["Title: A survey", "=" * 80, *description, "Note: x", rule, *rows, ""]))
    columns = tables.read(path).columns
    expected = np.where(np.arange(NUM) == 3, np.nan, Z)
    np.testing.assert_array_equal(columns["Size"], expected)
    np.testing.assert_array_equal(columns["z"], expected)
    np.testing.assert_array_equal(columns["ID"], np.arange(NUM))


@pytest.mark.parametrize(("stated", "missing"), [("null", "null"), ("-1", "-1.000"), ("null", "---")])
def test_missing_entries_of_ipac_tables(tmp_path, stated, missing):
    lines = ["|      ID|      z|", "|    char| double|", "|        |       |", f"|    null|{stated:>7}|"]
    entries = [f"{value:7.4f}" for value in Z]
    entries[3] = missing.rjust(7)
    path = tmp_path / "t.tbl"
    path.write_text("\n".join([*lines, *(f" {n:08d} {entry} " for n, entry in enumerate(entries)), ""]))
    columns = tables.read(path).columns
    np.testing.assert_array_equal(columns["z"], np.where(np.arange(NUM) == 3, np.nan, Z))
    assert columns["ID"][1] == "00000001"


def test_several_tables_of_vizier_in_one_file_are_refused(tmp_path):
    rows = "1\t0.5\n2\t0.6\n"
    (tmp_path / "t.tsv").write_text(f"#Table A\nid\tz_spec\n\t\n--\t------\n{rows}")
    assert read_labels(tmp_path / "t.tsv").value.tolist() == [0.5, 0.6]
    (tmp_path / "v.tsv").write_text(f"id\tz_spec\n{rows}---\t---\n{rows}")  # a row without values
    assert read_labels(tmp_path / "v.tsv").value.tolist() == [0.5, 0.6, 0.5, 0.6]
    (tmp_path / "u.tsv").write_text(
        f"#Table A\nid\tz_spec\n\t\n--\t------\n{rows}\n#Table B\nref\tyear\tby\n---\t----\t--\n1\t2000\tA\n"
    )
    with pytest.raises(InputError, match=r"u\.tsv: contains several tables; save each in a file of its own"):
        tables.read(tmp_path / "u.tsv")


def test_null_is_a_gap_in_tables_of_gaia(tmp_path):
    """Files of the archive are ECSV, packed, of text ``null`` where there is no value."""
    names = {"source_id": "int64", "ra": "float64", "dec": "float64", "z_spec": "float64", "visits": "int16"}
    lines = ["# %ECSV 1.0", "# ---", "# delimiter: ','", "# datatype:"]
    for name, kind in names.items():
        lines += ["# -", f"#   name: {name}", f"#   datatype: {kind}"]
    lines += [",".join(names), "4295806720,150.1,2.1,0.3,null", "4295806721,150.2,2.2,null,7"]
    path = tmp_path / "GaiaSource_000000-003111.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    columns = tables.read(path).columns
    assert columns["source_id"].tolist() == [4295806720, 4295806721]
    np.testing.assert_array_equal(columns["z_spec"], [0.3, np.nan])
    np.testing.assert_array_equal(columns["visits"], [np.nan, 7])


def test_identities_that_count_in_each_tile_anew_are_refused_by_their_own_name(tmp_path):
    path = tmp_path / "jplus.csv"
    path.write_text("TILE_ID,NUMBER,ra,dec\n101,1,150.1,2.1\n102,1,150.2,2.2\n")
    with pytest.raises(InputError, match=r"jplus\.csv: NUMBER 1 occurs 2 times; .* rename the column"):
        read_catalogue(path)


@pytest.mark.parametrize(
    "name",
    [
        "ZWARN",
        "zflg",
        "nQ",
        "ZQUALITY",
        "q_z",
        "cc",
        "SPECTYPE",
        "flag",
        "f_z",
        "CONFID",
        "VI_QUALITY",
        "z_best_s",
        "flag_specz",
        "q_specz",
        "zsp_flag",
        "zs_flag",
        "secure",
        "reliability",
        "grade",
        "spe_rank",
        "best_quality",
        "specz_q",
        "z_use",
        "z_best_grade",
        "u_zsp",
        "q_z1",
        "redshift_Qop",
        "CTP_REDSHIFT_GRADE",
        "MAXQUAL",
        "FLAG_DES",
        "z_prob",
        "PROB",
    ],
)
def test_columns_of_quality_that_nothing_selects_by_are_said(tmp_path, caplog, name):
    values = ["GALAXY", "STAR"] if name == "SPECTYPE" else [3, 4]
    rows = "".join(f"{i},{0.1 * i:.1f},{values[i % 2]},{i}\n" for i in range(1, 9))
    path = tmp_path / "labels.csv"
    path.write_text(f"id,z_spec,{name},FLAGS\n{rows}")
    read_labels(path)
    said = f"{name}: {values[0]} (4 times), {values[1]} (4 times); select the secure ones"
    assert said in caplog.text
    assert "FLAGS" not in caplog.text
    caplog.clear()
    read_labels(path, select=[f"{name} == {values[1]}"])
    assert not caplog.text


def test_sure_redshifts_are_those_without_a_warning(tmp_path, caplog):
    """The condition that was named would have chosen the others."""
    path = tmp_path / "labels.csv"
    path.write_text("id,Z,ZWARN\n" + "".join(f"{i},{0.1 * i:.1f},{i % 2 * 4}\n" for i in range(1, 9)))
    read_labels(path, column="Z")
    assert "(--select 'ZWARN == 0')" in caplog.text
    for flags, example in (
        ("AB", "z_flag == VALUE"),
        ("tf", "z_flag == VALUE"),
        ("12", "z_flag == VALUE"),
        ("123", "z_flag == VALUE"),  # either end may be the best: 1 is in CANDELS
        ("1235", "z_flag >= 3"),
        ("15", "z_flag >= 3"),
        ("346", "z_flag >= 3 and z_flag < 5"),
        ("189", "z_flag == VALUE"),
    ):
        entries = [flags[i % len(flags)] for i in range(1, 13)]
        path.write_text("id,Z,z_flag\n" + "".join(f"{i},0.{i},{entry}\n" for i, entry in enumerate(entries)))
        read_labels(path, column="Z")
        assert f"(--select '{example}')" in caplog.text
    path.write_text("id,Z,grade\n" + "".join(f"{i},{0.1 * i:.1f},{'ABC'[i % 3]}\n" for i in range(1, 9)))
    with pytest.raises(InputError, match="no order; use == or !=, for several values as in 'grade != C and"):
        read_labels(path, column="Z", select=["grade <= B"])
    assert len(read_labels(path, column="Z", select=["grade != C and grade != A"])) == 3


def test_labels_that_all_disagree_are_called_so():
    """It was said that they were of another sky, or that zeros at the front were to be left out."""
    value = np.concatenate([Z, Z + 0.5])
    features = {"object_id": np.arange(NUM), "ra": RA, "dec": DEC}
    for key in ({"object_id": np.tile(np.arange(NUM), 2)}, {"ra": np.tile(RA, 2), "dec": np.tile(DEC, 2)}):
        with pytest.raises(
            InputError, match=f"all {2 * NUM} labels of these objects disagree .* z_spec_flag"
        ):
            match_labels(features, Labels(value=value, columns=key, where="labels"))


def test_lists_in_the_place_of_labels_are_called_so(tmp_path):
    lists = pa.array([[z] * (n % 3) for n, z in enumerate(Z)])
    pq.write_table(pa.table({"id": np.arange(NUM), "z_spec": lists}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"'z_spec' holds list<.*>, not one value per object"):
        read_labels(tmp_path / "t.parquet")


@pytest.mark.parametrize("pack", [gzip.compress, lambda content: pa.compress(content, "zstd", asbytes=True)])
def test_packed_tables_are_read(tmp_path, pack):
    (tmp_path / "t.csv.packed").write_bytes(pack(f"id,ra,dec,z_spec\n{ROWS}".encode()))
    np.testing.assert_array_equal(read_labels(tmp_path / "t.csv.packed").value, Z)


def test_what_compress_packed_is_called_so(tmp_path):
    (tmp_path / "t.csv.Z").write_bytes(b"\x1f\x9d\x90" + bytes(100))
    with pytest.raises(InputError, match="packed by `compress`; unpack it"):
        tables.read(tmp_path / "t.csv.Z")


@pytest.mark.parametrize("ending", ["csv", "vot", "parquet", "feather", "npy", "jsonl", "fits"])
@pytest.mark.parametrize("pack", ["gz", "xz", "zst", "zip"])
def test_tables_of_any_format_may_be_packed(tmp_path, ending, pack):
    columns = {"id": IDENTITIES["beyond 2^53"], "ra": RA, "dec": DEC, "z_spec": Z}
    path = tmp_path / f"t.{ending}"
    if ending == "npy":
        np.save(path, Table(columns).as_array())
    elif ending == "jsonl":
        pd.DataFrame(columns).to_json(path, orient="records", lines=True, double_precision=15)
    elif ending in ("feather", "parquet"):
        getattr(pd.DataFrame(columns), f"to_{ending}")(path)
    else:
        Table(columns).write(path, format="votable" if ending == "vot" else ending)
    packed = tmp_path / f"t.{ending}.{pack}" if ending != "csv" else tmp_path / f"labels.{pack}"
    if pack == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._x", b"1")
            archive.write(path, path.name)
    else:
        how = {
            "gz": gzip.compress,
            "xz": lzma.compress,
            "zst": lambda c: pa.compress(c, "zstd", asbytes=True),
        }
        packed.write_bytes(how[pack](path.read_bytes()))
    labels = read_labels(packed)
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_array_equal(labels.columns["object_id"], IDENTITIES["beyond 2^53"])
    assert labels.where == str(packed)


def test_archives_of_several_files_and_of_too_much_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.csv", "id,z\n1,2\n")
        archive.writestr("two.csv", "id,z\n1,2\n")
    with pytest.raises(InputError, match=r"2 files \(one.csv, two.csv\); unpack it first"):
        tables.read(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.csv", b"a,b\n" + b"0" * (80 << 20))
    with pytest.raises(InputError, match="unpacks to more than"):
        tables.read(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"PK\x03\x04", "as CSV"),
        ("a.ods", b"PK\x03\x04", "as CSV"),
        ("a.zip", b"PK\x03\x04", "cannot unpack this file"),
        ("a.db", b"SQLite format 3\0", "an SQLite database; export its table: sqlite3 -csv -header a.db"),
        ("a.root", b"root\0\0", "a ROOT file"),
        ("a.sav", b"SR\0\4", "an IDL save file"),
        ("a.aspx", b"<!DOCTYPE html><html>Log in</html>\n", "a web page, not a table"),
        ("a.pkl", pickle.dumps({"z": Z}), "a pickle, which may run any program"),
        (
            "a.tgz",
            gzip.compress(b"t.csv".ljust(257, b"\0") + b"ustar\0" + bytes(600), mtime=0),
            "tar -xf a.tgz",
        ),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "a.csv.gz: contains no rows"),
        ("a.h5.gz", gzip.compress(b"\x89HDF\r\n\x1a\n", mtime=0), "a packed HDF5 file"),
    ],
)
def test_files_of_other_kinds_are_called_so(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content + bytes(100) * (not name.endswith("gz")))
    with pytest.raises(InputError, match=words):
        tables.read(tmp_path / name)


def test_minus_signs_of_print_are_minus_signs(tmp_path):
    (tmp_path / "t.csv").write_text("name,z_spec,n\nA−1,−0.002,−3\nB,0.3,4\nC,−99,−99\n")
    labels = read_labels(tmp_path / "t.csv")
    assert labels.value.tolist() == [-0.002, 0.3]
    assert (labels.columns["n"].tolist(), labels.columns["name"].tolist()) == ([-3, 4], ["A−1", "B"])


@pytest.mark.parametrize("sign", ["#", "//", "!", "%"])
def test_rows_that_are_comments_are_said(tmp_path, caplog, sign):
    """They were left out without a word, be they rows that somebody marked or names such as #12."""
    (tmp_path / "t.csv").write_text("name,z_spec\na,0.1\n# of 2019\n" + f"{sign}12,0.2\nb,0.3\n")
    assert read_labels(tmp_path / "t.csv").value.tolist() == [0.1, 0.3]
    assert f"1 of 3 rows are skipped as comments, such as the one that begins with '{sign}12'" in caplog.text
    caplog.clear()
    (tmp_path / "t.csv").write_text("name,z_spec\na,0.1\n# of 2019\nb,0.3\n")
    assert len(read_labels(tmp_path / "t.csv")) == 2
    assert not caplog.text


def test_tables_that_fpack_compressed_are_called_so(tmp_path):
    hdu = fits.table_to_hdu(Table({"z_spec": Z}))
    hdu.header["ZTABLE"] = True
    hdu.writeto(tmp_path / "t.fits")
    with pytest.raises(InputError, match="unpack it with funpack"):
        read_labels(tmp_path / "t.fits")


@pytest.mark.parametrize(
    "gap", ["1.#QNAN", "-1.#IND00", "1.#INF", "-nan", "NaN(ind)", "********", "#DIV/0!", "?"]
)
def test_what_programs_write_where_there_is_no_number(tmp_path, gap):
    path = tmp_path / "labels.csv"
    path.write_text(
        f"id,ra,dec,z_spec,mag\n1,150.1,2.1,0.3,inf\n2,150.2,2.2,{gap},21.5\n3,{gap},2.3,0.4,{gap}\n"
    )
    labels = read_labels(path)
    assert labels.value.tolist() == [0.3, 0.4]
    np.testing.assert_array_equal(labels.columns["mag"], [np.inf, np.nan])
    np.testing.assert_array_equal(labels.columns["ra"], [150.1, np.nan])


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"RA": RA / 15, "DEC": DEC}, "RA_DEG and DEC_DEG, by which RA is in hours"),
        ({"RA": np.radians(RA), "DEC": np.radians(DEC)}, "RA_DEG and DEC_DEG, by which RA is in radians"),
        ({"RA": SKY.ra.to_string("hour", sep=":", precision=6), "DEC": DEC}, ""),
        (
            {"RA": np.full(NUM, 150.0), "DEC": np.full(NUM, 2.0)},
            "and DEC; those in RA_DEG and DEC_DEG are 0.",
        ),
    ],
    ids=["hours", "radians", "sexagesimal", "of the field"],
)
def test_two_pairs_of_positions_that_disagree(tmp_path, caplog, first, said):
    """Hours without a unit were silently taken as degrees, although their degrees are there too."""
    table = Table({"id": np.arange(NUM), **first, "RA_DEG": RA, "DEC_DEG": DEC})
    table.write(tmp_path / "t.csv")
    found = read_catalogue(tmp_path / "t.csv")
    expected = first["RA"] if "those in" in said else RA
    np.testing.assert_allclose(found["ra"], expected, atol=1e-7)
    assert said in caplog.text
    assert caplog.text.count("positions are taken") == (said != "")


@pytest.mark.parametrize("place", [0.0, 150.0])
def test_a_second_pair_with_one_place_for_most_objects_is_no_contradiction(tmp_path, caplog, place):
    second = np.where(np.arange(NUM) > 0, place, RA), np.where(np.arange(NUM) > 0, place / 75, DEC)
    table = Table({"id": np.arange(NUM), "RA": RA, "DEC": DEC, "RA_DEG": second[0], "DEC_DEG": second[1]})
    table.write(tmp_path / "t.csv")
    np.testing.assert_allclose(read_catalogue(tmp_path / "t.csv")["ra"], RA, atol=1e-7)
    assert "positions are taken" not in caplog.text


@pytest.mark.parametrize(
    ("ra", "said"),
    [
        ([f"{v:.6g}" for v in RA], "ra has too few digits: its values are rounded, so that .* up to 1.8″"),
        ([f"{v:.4f}" for v in RA], None),
        (SKY.ra.to_string("hour", sep=":", precision=0), "up to 7.5″"),
        (SKY.ra.to_string("hour", sep=" ", precision=2), None),
    ],
)
def test_positions_of_too_few_digits_are_said(tmp_path, caplog, ra, said):
    """Programs in awk and C++ print six digits unless told otherwise: 150.123 is up to 1.8 arcseconds off."""
    lines = [f"{n},{value},{d:.5f}\n" for n, (value, d) in enumerate(zip(ra, DEC, strict=True))]
    (tmp_path / "t.csv").write_text("id,ra,dec\n" + "".join(lines))
    read_catalogue(tmp_path / "t.csv")
    assert (re.search(said, caplog.text) is not None) if said else not caplog.text


@pytest.mark.parametrize("lacks", [-999.0, np.nan, 0.0, -99.0])
def test_positions_that_lack_are_those_of_another_pair_of_columns(tmp_path, caplog, lacks):
    """Pan-STARRS has -999 in raMean where an object is on stacks alone."""
    is_there = np.arange(NUM) % 3 > 0
    columns = {
        "objID": np.arange(NUM),
        "raMean": np.where(is_there, RA, lacks),
        "decMean": np.where(is_there, DEC, lacks),
        "raStack": RA + 1e-5,
        "decStack": DEC,
    }
    path = tables.write_table(tmp_path / "ps1.fits", columns)
    found = read_catalogue(path)
    np.testing.assert_allclose(found["ra"], RA, atol=2e-5)
    assert (
        f"{(~is_there).sum()} of {NUM} objects without raMean and decMean take their positions from raStack"
        in caplog.text
    )
    columns |= {"raMean": np.full(NUM, lacks), "decMean": np.full(NUM, lacks)}
    found = read_catalogue(tables.write_table(tmp_path / "none.fits", columns))
    np.testing.assert_allclose(found["ra"], RA, atol=2e-5)
    columns |= {"raMean": np.where(is_there, RA, lacks), "decMean": np.where(is_there, DEC, lacks)}
    columns["raStack"] = RA + 0.1  # of other objects
    found = read_catalogue(tables.write_table(tmp_path / "other.fits", columns))
    np.testing.assert_array_equal(np.isfinite(found["ra"]), is_there)


def test_hours_of_hyperleda(tmp_path):
    path = tmp_path / "leda.csv"
    path.write_text("pgc,al2000,de2000,v\n1,0.5,-20.0,3\n2,12.25,30.5,4\n")
    np.testing.assert_allclose(read_catalogue(path)["ra"], [7.5, 183.75])


@pytest.mark.parametrize(
    "names",
    [
        "ra_corrected dec_corrected",
        "HST_RA HST_DE",
        "RAspec DECspec",
        "alpha.new delta.new",
        "RAdeg_OC DECdeg_OC",
    ],
)
def test_columns_that_differ_in_ra_and_dec_are_places_and_said(tmp_path, caplog, names):
    first, second = names.split()
    columns = {"z_spec": Z, first: RA, second: DEC, "e_ra": Z, "e_dec": Z, "pm_ra": Z, "pm_dec": Z}
    columns |= {"sky_bbox_ll.ra": RA + 0.1, "sky_bbox_ll.dec": DEC}  # JWST's catalogues
    path = tables.write_table(tmp_path / "labels.csv", columns)
    labels = read_labels(path)
    np.testing.assert_allclose(labels.columns["ra"], RA)
    assert f"{first} and {second} are taken as the positions of the objects" in caplog.text
    again = {"ra_old": RA + 1e-5, "dec_old": DEC}
    for both in (columns | again, again | columns):  # COSMOS's ra_original stands before ra_corrected
        np.testing.assert_array_equal(read_labels(tables.write_table(path, both)).columns["ra"], RA)
    again["ra_old"] = RA + 0.1
    with pytest.raises(InputError, match="disagree with"):
        read_labels(tables.write_table(path, columns | again))
    del columns[first]
    assert "ra" not in read_labels(tables.write_table(path, columns)).columns


@pytest.mark.parametrize(
    "names",
    [
        "rah ram ras decd decm decs",
        "RA_h RA_m RA_s Dec_d Dec_m Dec_s",
        "rahr ramin rasec ded demin desec",
        "ra_hours ra_min ra_sec dec_deg dec_min dec_sec",  # taken as decimal hours and degrees, 15° off
        "ra_hour ra_minutes ra_seconds dec_degrees dec_minutes dec_seconds",
        "RAh RAm RAs DE- DEd DEm DEs",
        "RAh RAm RAs sign DEd DEm DEs",
        "RAh RAm RAs Dec_sgn DEd DEm DEs",
    ],
)
def test_places_in_six_or_seven_columns(tmp_path, names):
    numbers = "10 0 30.5 - 0 30 36" if len(names.split()) == 7 else "10 0 30.5 -0 30 36"
    path = tmp_path / "labels.csv"
    path.write_text(",".join(["z_spec", *names.split()]) + "\n" + ",".join(["0.3", *numbers.split()]) + "\n")
    columns = read_labels(path).columns
    np.testing.assert_allclose([columns["ra"][0], columns["dec"][0]], [150.127083333, -0.51], atol=1e-8)


@pytest.mark.parametrize(
    ("flags", "secure"),
    [
        ([0, 1, 2, 3, 4, 9, 11, 12, 13, 21, 24, 29], [3, 4]),  # VVDS
        ([1.5, 2.4, 3.5, 4.5, 9.5, 13.1, 18.5, 23.5], [3.5, 4.5]),  # zCOSMOS
        ([1, 2, 3, 4, 6], [3, 4]),  # OzDES, in which 6 is a star
        ([1, 2, 3, 4, 5], [3, 4, 5]),  # WiggleZ
    ],
)
def test_the_condition_that_is_named_selects_secure_redshifts(tmp_path, caplog, flags, secure):
    path = tmp_path / "labels.csv"
    entries = [f"{number},{0.01 + 0.01 * number},{flags[number % len(flags)]}\n" for number in range(48)]
    path.write_text("id,z_spec,zflags\n" + "".join(entries))
    read_labels(path)
    condition = re.search("--select '(.*)'", caplog.text)[1]
    assert sorted(set(read_labels(path, select=[condition]).columns["zflags"])) == secure


def test_flags_most_of_which_are_0_mean_problems(tmp_path, caplog):
    """As those of DESI and SDSS; the largest would choose the wrong one of two redshifts."""
    number, flag = np.repeat(np.arange(6), 2), np.array([0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    z = 0.3 + 0.1 * number + 0.2 * (flag == 4)
    Table({"object_id": number, "z_spec": z, "z_flag": flag}).write(tmp_path / "l.fits")
    labels = read_labels(tmp_path / "l.fits")
    assert "(--select 'z_flag == VALUE')" in caplog.text
    assert match_labels({"object_id": np.arange(6)}, labels).rows.tolist() == [1, 2, 3, 4, 5]
    labels = read_labels(tmp_path / "l.fits", select=["z_flag == 0"])
    assert len(match_labels({"object_id": np.arange(6)}, labels).rows) == 6


def test_flags_that_most_labels_lack_decide_where_they_are():
    columns = {"object_id": np.array([0, 0, 1, 2, 3]), "z_flag": np.array([1, 4, np.nan, np.nan, np.nan])}
    labels = Labels(value=np.array([0.3, 0.5, 0.3, 0.3, 0.3]), columns=columns, where="labels.fits")
    match = match_labels({"object_id": np.arange(4)}, labels)
    assert (match.rows.tolist(), match.label_rows.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4])


def test_probabilities_and_ranks_of_redshifts_are_named(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    entries = "".join(f"{number},{0.5 + 0.01 * number},{number / 41},{number % 2}\n" for number in range(40))
    path.write_text("object_id,SPE_Z,SPE_Z_REL,SPE_RANK\n" + entries)
    read_labels(path, column="SPE_Z")
    assert "SPE_Z_REL: 0 to 0.95122; SPE_RANK: 0 (20 times), 1 (20 times)" in caplog.text
    assert "(--select 'SPE_Z_REL >= VALUE', or 'SPE_RANK == 0')" in caplog.text
    caplog.clear()
    for number in (np.nan, 0.5):
        same = tables.write_table(tmp_path / "same.csv", {"z_spec": Z, "z_conf": np.full(len(Z), number)})
        read_labels(same)
        assert not caplog.text


@pytest.mark.parametrize("name", ["V_HELIO", "HRV", "Velocity", "v", "rvz_radvel", "Vcmb", "HV", "Vh", "Vls"])
def test_velocities_by_any_name_are_no_redshifts(tmp_path, name):
    path = tables.write_table(tmp_path / "labels.csv", {"ra": RA, "dec": DEC, name: Z * 299792.458})
    with pytest.raises(InputError, match=f"'{name}' is in km/s: velocities, not redshifts"):
        read_labels(path, column=name)
    path = tables.write_table(tmp_path / "magnitudes.csv", {"ra": RA, "dec": DEC, name: Z + 22})
    assert len(read_labels(path, column=name)) == len(Z)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ('"ra" "dec" "z_spec"', '"{0}" 150.{0} 2.1 0.{0}'),
        ('"id" "ra" "dec" "z_spec"', '"J{0}" {0} 150.{0} 2.1 0.{0}'),
        ("ra\tdec\tz_spec", "{0}\t150.{0}\t2.1\t0.{0}"),
    ],
)
def test_row_names_of_r_need_no_header(tmp_path, header, row):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join([header, *(row.format(number) for number in range(1, 9))]) + "\n")
    labels = read_labels(path)
    np.testing.assert_allclose(labels.value, np.arange(1, 9) / 10)
    np.testing.assert_allclose(labels.columns["ra"], 150 + np.arange(1, 9) / 10)


@pytest.mark.parametrize("unit", ["deg", "rad"])
def test_tables_as_astropy_and_pandas_print_them(tmp_path, unit):
    table = QTable(
        {"name": IDENTITIES["leading zeros"], "ra": (RA * u.deg).to(unit), "dec": (DEC * u.deg).to(unit)}
    )
    table["z_spec"] = Z
    (tmp_path / "t.txt").write_text("\n".join([*table.pformat(max_lines=-1), f"Length = {NUM} rows"]) + "\n")
    found = tables.read(tmp_path / "t.txt")
    assert found.units == {"ra": unit, "dec": unit}
    sky = tables.positions(found.columns, found.units, "t")
    np.testing.assert_allclose(sky.ra, RA)
    frame = pd.DataFrame({"ra": RA, "dec": DEC, "z_spec": Z})
    (tmp_path / "p.txt").write_text(frame.to_string() + "\n")
    np.testing.assert_allclose(tables.read_table(tmp_path / "p.txt")["ra"], RA, rtol=1e-6)


def test_positions_of_manga_are_those_of_the_objects(tmp_path):
    columns = {"plateifu": ["7443-1", "7443-2"], "ifura": [1.0, 2.0], "ifudec": [3.0, 4.0]}
    Table({"objra": [150.1, 150.2], "objdec": [2.1, 2.2], **columns}).write(tmp_path / "drpall.fits")
    found = read_catalogue(tmp_path / "drpall.fits")
    assert found["ra"].tolist() == [150.1, 150.2]
    assert found["dec"].tolist() == [2.1, 2.2]


def test_an_entry_too_many_is_no_row_name(tmp_path):
    path = tmp_path / "labels.txt"
    for header in ("id ra dec z_spec", "ra dec z_spec mag"):
        first = "{0}" if header.startswith("id") else "150.{0}"
        path.write_text(
            header + "\n" + "".join(f"{first} 2.1 0.3 0.{{0}} 21\n".format(n) for n in range(1, 5))
        )
        with pytest.raises(InputError, match="line 2 has 5 entries, the header 4"):
            read_labels(path)


def test_dots_between_thousands_beside_decimal_commas(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text(
        "id;z_spec;number;mass\n" + "".join(f"1.00{n};0,{n};2.34{n};1.234,5\n" for n in range(1, 7))
    )
    labels = read_labels(path)
    assert labels.columns["id"].tolist() == [*range(1001, 1007)]
    assert labels.columns["number"].tolist() == [*range(2341, 2347)]
    assert set(labels.columns["mass"]) == {1234.5}
    assert "dots in column 'number' are taken as separators of thousands" in caplog.text
    path.write_text("id;z_spec;mag;size\n" + "".join(f"{n};0,{n};22.34{n};0.5\n" for n in range(1, 7)))
    assert read_labels(path).columns["mag"][0] == 22.341  # decimal points elsewhere


def test_velocities_are_no_redshifts(tmp_path):
    path = tables.write_table(tmp_path / "labels.csv", {"ra": RA, "dec": DEC, "cz": Z * 299792.458})
    with pytest.raises(InputError, match="'cz' is in km/s: velocities, not redshifts"):
        read_labels(path, column="cz")


@pytest.mark.parametrize(("offset", "is_said"), [(9.0, True), (0.0, False)])
def test_zeros_far_from_all_other_values_are_said(tmp_path, caplog, offset, is_said):
    values = np.where(np.arange(NUM) < 4, 0.0, Z + offset)
    read_labels(
        tables.write_table(tmp_path / "labels.csv", {"id": np.arange(NUM), "mass": values}), column="mass"
    )
    assert ("a mass of exactly 0, far from all others" in caplog.text) == is_said


@pytest.mark.parametrize(("code", "is_said"), [(0.0, True), (-1.0, True), (0.99, True), (None, False)])
def test_one_value_that_is_far_too_common_is_said(tmp_path, caplog, code, is_said):
    """Logarithms of rates are 0 where there is none, which is an ordinary value of them; it was silent."""
    values = np.round(np.random.default_rng(4).normal(0, 1, 300), 4)
    values[:40] = values[:40] if code is None else code
    path = tables.write_table(tmp_path / "labels.csv", {"id": np.arange(300), "logsfr": values})
    assert len(read_labels(path, column="logsfr")) == 300
    assert ("40 of 300 rows have a logsfr of exactly" in caplog.text) == is_said
    if is_said:
        assert len(read_labels(path, column="logsfr", select=[f"logsfr != {code:g}"])) == 260
    path = tables.write_table(tmp_path / "two.csv", {"id": np.arange(300), "n": (values > 2).astype(float)})
    caplog.clear()
    read_labels(path, column="n")
    assert not caplog.text


def test_single_huge_values_are_placeholders(tmp_path):
    """One 1e30 is enough to spoil what is learned; three were needed to be noticed."""
    values = np.random.default_rng(4).uniform(1, 9, 50)
    for code in (1e30, -2147483648.0, float(np.finfo(np.float32).max)):
        path = tables.write_table(
            tmp_path / "labels.csv", {"id": np.arange(51), "sfr": np.append(values, code)}
        )
        assert read_labels(path, column="sfr").value.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("name", "kinds", "said"),
    [
        ("reference", ["photo-z", "DESI", "SDSS"], "reference: DESI (8 times), SDSS (8 times), photo-z"),
        ("method", ["spec", "phot", ""], "method:  (8 times), phot (8 times), spec"),
        ("z_best_s", [1, 2, 3], "(--select 'z_best_s == VALUE')"),
        ("type", ["s", "g", "p"], "(--select 'type == VALUE')"),
        ("class_spec", ["GALAXY", "STAR", "QSO"], "class_spec: GALAXY (8 times)"),
        ("dist flag", [1, 2, 3], "(--select 'dist flag == VALUE')"),
        ("z_src", [1, 2, 3], "(--select 'z_src == VALUE')"),
        ("morphology", ["E", "S", "Irr"], ""),
    ],
)
def test_photometric_redshifts_among_others_are_said(tmp_path, caplog, name, kinds, said):
    """In 3D-HST, z_best_s is 1 for spectra and 3 for photometry; z_best_s >= 3 was suggested."""
    columns = {"id": np.arange(NUM), "z_best": Z, name: np.array(kinds * (NUM // 3))}
    read_labels(tables.write_table(tmp_path / "labels.fits", columns), column="z_best")
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("name", "is_said"),
    [
        *((name, True) for name in ("z_phot", "photoz_best", "Z_B", "zANNZ", "lp_zBEST", "DNF_ZMEAN_SOF")),
        *((name, True) for name in ("PHZ_MEDIAN", "ez_z_phot", "z_peak", "bpz_z", "lp_zMinChi2", "zml")),
        *((name, True) for name in ("photo-z", "pz_best_mlz", "zb_1", "z_tpz", "zp_gal", "ZPDF", "Z_MC")),
        *(
            (name, False)
            for name in ("z", "zBEST", "Z_SPEC", "zspec_phot_prior", "z_helio", "ZPRIMUS", "zb_mw")
        ),
    ],
)
def test_photometric_redshifts_as_labels_are_said(tmp_path, caplog, name, is_said):
    columns = {"id": np.arange(NUM), name: Z, "zsp": Z}
    read_labels(tables.write_table(tmp_path / "labels.fits", columns), column=name)
    assert (f"{name} is a photometric redshift by its name" in caplog.text) == is_said
    caplog.clear()
    field = f'<FIELD name="z" datatype="double" ucd="src.redshift{".phot" * is_said}"/>'
    rows = "".join(f"<TR><TD>{z}</TD></TR>" for z in Z)
    (tmp_path / "labels.vot").write_text(
        f"<VOTABLE><RESOURCE><TABLE>{field}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )
    ucd = f"[ucd=src.redshift{'.phot' * is_said}]"
    body = "".join(f"{n}\t{z}\n" for n, z in enumerate(Z))
    (tmp_path / "labels.tsv").write_text(
        f"#\n#Column\tz\t(F7.5)\t[0/9] Redshift\t{ucd}\nid\tz\n \t \n--\t--\n{body}"
    )
    text = (tmp_path / "labels.tsv").read_text()
    (tmp_path / "labels.txt").write_text(text.replace("\t", ";"))
    for ending in ("vot", "tsv", "txt"):
        read_labels(tmp_path / f"labels.{ending}", column="z")
        assert ("z is a photometric redshift by its UCD" in caplog.text) == is_said
        caplog.clear()


HMS = "1 10 02 02.83 -00 16 26.5 0.7245\n2 10 03 48.11 +02 00 25.5 1.0156\n3 0 0 34.59 -12 38 44.5 0.4\n"
READ_ME = """\
Byte-by-byte Description of file: other.dat table?.dat
--------------------------------------------------------------------------------
   Bytes Format Units   Label     Explanations
--------------------------------------------------------------------------------
   1      I1    ---     ID        Number
   3-  4  I2    h       RAh       Hour of Right Ascension (J2000)
   6-  7  I2    min     RAm       Minute of Right Ascension (J2000)
   9- 13  F5.2  s       RAs       Second of Right Ascension (J2000)
  15      A1    ---     DE-       Sign of the Declination (J2000)
  16- 17  I2    deg     DEd       Degree of Declination (J2000)
  19- 20  I2    arcmin  DEm       Arcminute of Declination (J2000)
  22- 25  F4.1  arcsec  DEs       Arcsecond of Declination (J2000)
  27- 32  F6.4  ---     z_spec    ? Redshift
--------------------------------------------------------------------------------
"""


@pytest.mark.parametrize(
    "way",
    [
        "a header of four names",
        "a header in a comment",
        "a header, and commas",
        "a ReadMe beside",
        "a ReadMe beside, packed",
    ],
)
def test_right_ascensions_and_declinations_in_three_parts_without_names(tmp_path, way):
    path = tmp_path / ("table2.dat" if "packed" not in way else "table2.dat.gz")
    text = HMS
    if "header" in way:
        text = ("# Redshifts\n# " if "comment" in way else "") + "ID RA(J2000) Dec z_spec\n" + HMS
        text = text.replace(" ", ",") if "commas" in way else text
    else:
        text = HMS.replace("3 0 0 34.59", "3 00 00 34.59").replace("0.4\n", "\n")
        (tmp_path / "ReadMe").write_text(READ_ME)
    path.write_bytes(gzip.compress(text.encode()) if "packed" in way else text.encode())
    labels = read_labels(path)
    assert labels.value[:2].tolist() == [0.7245, 1.0156]
    assert len(labels) == (3 if "header" in way else 2)
    np.testing.assert_allclose(labels.columns["ra"][:2], [150.511792, 150.950458], atol=1e-6)
    np.testing.assert_allclose(labels.columns["dec"][:2], [-0.274028, 2.007083], atol=1e-6)
    np.testing.assert_allclose(read_catalogue(path)["dec"][2], -12.645694, atol=1e-6)
    if "ReadMe" in way:
        other = tmp_path / "another.dat"
        other.write_text(HMS)
        with pytest.raises(InputError, match="no header"):
            read_labels(other)


@pytest.mark.parametrize(("name", "kind"), [("brick_primary", bool), ("i_detect_isPrimary", int)])
def test_doubles_that_a_catalogue_marks_are_said(tmp_path, caplog, name, kind):
    marks = (np.arange(NUM) % 4 > 0).astype(kind)
    path = tables.write_table(tmp_path / "tractor.fits", {"ra": RA, "dec": DEC, name: marks})
    read_catalogue(path)
    condition = f"{name} == {'true' if kind is bool else 1}"
    assert f"{(marks == 0).sum()} of {NUM} objects are not primary by {name}" in caplog.text
    assert f"--where '{condition}' leaves them out" in caplog.text
    caplog.clear()
    assert len(read_catalogue(path, where=condition)["ra"]) == marks.sum()
    assert not caplog.text


def test_objects_listed_twice_by_overlapping_tiles_are_told(tmp_path, caplog):
    for number, is_told in ((0, False), (1, False), (12, True)):
        ra = np.concatenate([np.tile(RA, 10) + np.repeat(np.arange(10.0), NUM), RA[:number] + 0.03 / 3600])
        dec = np.concatenate([np.tile(DEC, 10), DEC[:number]])
        Table({"ra": ra, "dec": dec}).write(tmp_path / "c.fits", overwrite=True)
        caplog.clear()
        read_catalogue(tmp_path / "c.fits")
        assert ("24 of 252 objects are within 0.1″ of another" in caplog.text) is is_told


def test_identities_of_which_conditions_leave_one_each(tmp_path, caplog):
    """As in DESI's catalogues, which have a row for each survey and program."""
    columns = {
        "TARGETID": [7, 7, 8],
        "TARGET_RA": RA[:3],
        "TARGET_DEC": DEC[:3],
        "ZCAT_PRIMARY": [False, True, True],
    }
    path = tables.write_table(tmp_path / "zall.fits", {k: np.asarray(v) for k, v in columns.items()})
    with pytest.raises(InputError, match="TARGETID 7 occurs 2 times"):
        read_catalogue(path)
    assert "--where 'ZCAT_PRIMARY == true' leaves them out" in caplog.text
    found = read_catalogue(path, where="ZCAT_PRIMARY == true")
    assert found["object_id"].tolist() == [7, 8]
    np.testing.assert_allclose(found["ra"], RA[1:3])


@pytest.mark.parametrize(
    "condition", ["ALPHA_J2000 < 150", "ra < 150", "X_IMAGE <= 8", "x <= 7", "NUMBER <= 8", "patch == '4,5'"]
)
def test_conditions_name_columns_as_the_catalogue_does_or_as_we_do(tmp_path, condition):
    """Those that stand under our names after reading were refused by their own."""
    number = np.arange(1, NUM + 1)
    columns = {"NUMBER": number, "ALPHA_J2000": 149 + number / 8.0, "DELTA_J2000": DEC, "X_IMAGE": number}
    columns |= {"Y_IMAGE": number, "patch": np.where(number <= 8, "4,5", "4,6"), "FLUX": np.ones((NUM, 2))}
    Table(columns).write(tmp_path / "c.fits")
    found = read_catalogue(tmp_path / "c.fits", where=condition)
    assert found["object_id"].tolist() == list(range(1, 8 if condition.endswith("150") else 9))
    assert "NUMBER" not in found


@pytest.mark.parametrize(("name", "is_said"), [("ID", True), ("NUMBER", True), ("object_id", False)])
def test_matching_by_running_numbers_of_another_catalogue_is_said(tmp_path, caplog, name, is_said):
    features = {"object_id": np.arange(NUM), "ra": RA, "dec": DEC}
    path = tables.write_table(tmp_path / "labels.csv", {name: np.arange(NUM), "z_spec": Z})
    assert match_labels(features, read_labels(path)).by == "id"
    assert (f"matched by {name} alone" in caplog.text) == is_said
    caplog.clear()
    path = tables.write_table(path, {name: np.arange(NUM), "ra": RA, "dec": DEC, "z_spec": Z})
    match_labels(features, read_labels(path))
    assert "alone" not in caplog.text


def test_magnitudes_that_are_called_z_are_no_redshifts(tmp_path):
    bands = {band: Z + 18 for band in "ugriz"}
    path = tables.write_table(tmp_path / "sdss.csv", {"id": np.arange(NUM), **bands, "redshift": Z})
    with pytest.raises(
        InputError, match=r"the median of column 'z' is .*, beside columns g, r and i: magnitudes"
    ):
        read_labels(path, column="z")
    assert len(read_labels(path, column="redshift")) == NUM
    deep = tables.write_table(tmp_path / "deep.csv", {"id": np.arange(NUM), **bands, "z": Z + 5})
    assert len(read_labels(deep, column="z")) == NUM


@pytest.mark.parametrize("name", ["t.fits", "t.vot"])
def test_places_that_the_file_says_are_of_b1950(tmp_path, name):
    true = SkyCoord([150.0, 150.1, 12.3], [2.0, -2.1, 45.0], unit="deg")
    old = true.fk4

    def found(system, **columns):
        path = tmp_path / name
        if name == "t.fits":
            Table(columns).write(path, overwrite=True)
            with fits.open(path, mode="update") as hdus:
                hdus[1].header.update(system)
        else:
            Table(columns).write(path, format="votable", overwrite=True)
            frame = "eq_FK4" if system.get("EQUINOX", system.get("RADESYS")) in (1950.0, "FK4") else "eq_FK5"
            text = path.read_text().replace("<TABLE", f'<COOSYS ID="sys" system="{frame}"/><TABLE', 1)
            path.write_text(text.replace("<FIELD ", '<FIELD ref="sys" '))
        return read_catalogue(path)

    for system in ({"EQUINOX": 1950.0}, {"RADESYS": "FK4"}):
        catalogue = found(system, RA=old.ra.deg, Dec=old.dec.deg)
        there = SkyCoord(catalogue["ra"], catalogue["dec"], unit="deg")
        assert there.separation(true).arcsec.max() < 0.01
    for system, names in (
        ({"EQUINOX": 2000.0}, ("RA", "Dec")),
        ({"EQUINOX": 1950.0}, ("RAJ2000", "DEJ2000")),
    ):
        catalogue = found(system, **dict(zip(names, (true.ra.deg, true.dec.deg), strict=True)))
        there = SkyCoord(catalogue["ra"], catalogue["dec"], unit="deg")
        assert there.separation(true).arcsec.max() < 0.01


@pytest.mark.parametrize("name", ["t.fits", "t.vot"])
@pytest.mark.parametrize(("kind", "equinox"), [("FK4", "B1975"), ("FK5", "J2015.5"), ("FK4", "")])
def test_places_of_whatever_equinox_a_file_says(tmp_path, caplog, name, kind, equinox):
    """All of FK4 was taken as of B1950, and FK5 as of J2000 without a word."""
    frame = {"FK4": FK4, "FK5": FK5}[kind](equinox=equinox or "B1950")
    old = SKY.transform_to(frame)
    path, columns = tmp_path / name, {"ra": old.ra.deg, "dec": old.dec.deg, "z_spec": Z}
    if name == "t.fits":
        hdu = fits.table_to_hdu(Table(columns))
        hdu.header["RADESYS"] = kind
        if equinox:
            hdu.header["EQUINOX"] = float(equinox[1:])
        hdu.writeto(path)
    else:
        Table(columns).write(path, format="votable")
        stated = f' equinox="{equinox}"' if equinox else ""
        system = f'<COOSYS ID="sys" system="eq_{kind}"{stated}/>'
        path.write_text(path.read_text().replace("<TABLE", f"{system}<TABLE", 1))  # no column refers to it
    found = read_catalogue(path)
    there = SkyCoord(found["ra"], found["dec"], unit="deg")
    assert there.separation(SKY).arcsec.max() < 0.01
    assert f"ra and dec are converted from {kind} {equinox or 'B1950'}, as stated by the file" in caplog.text


@pytest.mark.parametrize("form", ["degrees", "parts"])
@pytest.mark.parametrize(
    ("words", "is_old"), [("(B1950)", True), ("(1950.0)", True), ("(J2000, epoch 1950)", False)]
)
def test_places_whose_descriptions_say_b1950(tmp_path, form, words, is_old):
    """As the CDS and journals say it; they were taken as of J2000, without a word."""
    sky = OLD if is_old else SKY
    columns = {"ra": sky.ra.deg, "dec": sky.dec.deg}
    if form == "parts":
        ra, dec = sky.ra.hms, sky.dec.signed_dms
        columns = {"RAh": ra.h, "RAm": ra.m, "RAs": ra.s, "DE-": np.where(dec.sign < 0, "-", "+")}
        columns |= {"DEd": dec.d, "DEm": dec.m, "DEs": dec.s}
    table = Table(columns)
    for name in table.colnames:
        table[name].description = f"{name} {words}"
    table.write(tmp_path / "t.vot", format="votable")
    as_vizier = tmp_path / "t.tsv"
    head = "".join(f"#Column\t{name}\t(F9.5)\t{name} {words}\t[ucd=]\n" for name in columns)
    rows = "".join("\t".join(map(str, row)) + "\n" for row in table)
    as_vizier.write_text("\t".join(columns).join([f"#\n#Name: J/A+A\n{head}\n", f"\n{rows}"]))
    for path in (tmp_path / "t.vot", as_vizier):
        found = read_catalogue(path)
        assert SkyCoord(found["ra"], found["dec"], unit="deg").separation(SKY).arcsec.max() < 0.01


def ucds_of(path, names, ucds):
    """Write words of the Virtual Observatory for the columns of a table."""
    if path.suffix == ".fits":
        with fits.open(path, mode="update") as hdus:
            hdus[1].header.update({f"TUCD{n}": ucd for n, ucd in enumerate(ucds, 1)})
        return
    text = path.read_text()
    for name, ucd in zip(names, ucds, strict=True):
        text = text.replace(f'name="{name}"', f'name="{name}" ucd="{ucd}"')
    path.write_text(text)


@pytest.mark.parametrize("name", ["t.fits", "t.vot"])
@pytest.mark.parametrize(
    "ucds",
    [
        ("meta.id;meta.main", "pos.eq.ra;meta.main", "pos.eq.dec;meta.main", "pos.eq.ra", "pos.eq.dec"),
        ("meta.id;meta.main", "pos.eq.ra", "pos.eq.dec", "stat.error;pos.eq.ra", "stat.error;pos.eq.dec"),
        ("ID_MAIN", "POS_EQ_RA_MAIN", "POS_EQ_DEC_MAIN", "POS_EQ_RA_OTHER", "POS_EQ_DEC_OTHER"),
    ],
)
def test_columns_that_only_ucds_tell(tmp_path, caplog, name, ucds):
    columns = {"c1": IDENTITIES["beyond 2^53"], "alpha_opt": RA, "delta_opt": DEC}
    columns |= {"alpha_radio": RA + 0.1, "delta_radio": DEC, "c4": Z}
    path = tmp_path / name
    Table(columns).write(path, **({} if name.endswith("fits") else {"format": "votable"}))
    ucds_of(path, list(columns), (*ucds, "src.redshift"))
    found = read_catalogue(path)
    np.testing.assert_allclose(found["ra"], RA)
    np.testing.assert_allclose(found["dec"], DEC)
    np.testing.assert_array_equal(found["object_id"], columns["c1"])
    np.testing.assert_array_equal(found["c4"], Z)
    assert not caplog.text
    with pytest.raises(InputError, match="no column 'z_spec'; by its UCD it is 'c4'"):
        read_labels(path)
    columns["c1"] = np.arange(NUM) // 2
    Table(columns).write(path, overwrite=True, **({} if name.endswith("fits") else {"format": "votable"}))
    ucds_of(path, list(columns), (*ucds, "src.redshift"))
    assert read_catalogue(path)["object_id"].tolist() == list(range(1, NUM + 1))


def test_the_centres_of_gama_come_before_its_brightest_pixels(tmp_path):
    pixels = {"RAmax": RA + 1e-4, "Decmax": DEC}
    columns = {"uberID": IDENTITIES["beyond 2^53"], **pixels, "RAcen": RA, "Deccen": DEC}
    Table(columns).write(tmp_path / "gkv.fits")
    catalogue = read_catalogue(tmp_path / "gkv.fits")
    np.testing.assert_array_equal(catalogue["ra"], RA)
    np.testing.assert_array_equal(catalogue["object_id"], columns["uberID"])


def test_lists_are_no_identities(tmp_path):
    """OBJID in BOSS's spAll lists run, rerun, camcol, field and id: repeated labels ended in a traceback."""
    lists = np.tile(np.arange(NUM)[:, None], 5)
    columns = {"SPECOBJID": IDENTITIES["beyond 2^53"].astype(str), "OBJID": lists, "Z": Z}
    table = Table({**columns, "PLUG_RA": RA, "PLUG_DEC": DEC})
    vstack([table, table[:3]]).write(tmp_path / "spAll.fits")
    labels = read_labels(tmp_path / "spAll.fits", column="Z")
    found = match_labels({"object_id": np.arange(NUM), "ra": RA, "dec": DEC}, labels)
    assert found.counts == {"repeated": 3}
    np.testing.assert_array_equal(labels.columns["object_id"][:NUM], columns["SPECOBJID"])


@pytest.mark.parametrize("name", ["label", "num"])
def test_classes_and_counts_are_no_identities(tmp_path, name):
    """Two galaxies within a fibre have their own redshifts, though both have the label galaxy."""
    values = {"label": np.array(["galaxy", "galaxy", "star"]), "num": np.array([3, 3, 4])}[name]
    places = {"ra": np.array([150.0, 150.0002, 151.0]), "dec": np.full(3, 2.0)}
    tables.write_table(tmp_path / "c.fits", {name: values, **places, "z_spec": np.array([0.3, 0.9, 0.5])})
    columns = read_catalogue(tmp_path / "c.fits")
    assert columns["object_id"].tolist() == [1, 2, 3]
    assert columns[name].tolist() == values.tolist()
    objects = {"object_id": np.array([1]), "ra": np.array([150.0]), "dec": np.array([2.0])}
    assert match_labels(objects, read_labels(tmp_path / "c.fits")).label_rows.tolist() == [0]
    tables.write_table(
        tmp_path / "d.fits", {name: np.array([7, 8, 9]), **places}
    )  # photutils calls them label
    assert read_catalogue(tmp_path / "d.fits")["object_id"].tolist() == [7, 8, 9]


def test_lists_in_the_place_of_identities_and_classes_are_no_tracebacks(tmp_path):
    places = {"ra": np.tile(RA, 2), "dec": np.tile(DEC, 2), "z_spec": np.tile(Z, 2)}
    lists = np.tile(np.arange(2 * NUM)[:, None], 3)
    Table({"object_id": lists, **places, "kind": lists % 2}).write(tmp_path / "l.fits")
    features = {"object_id": np.arange(NUM), "ra": RA, "dec": DEC}
    assert match_labels(features, read_labels(tmp_path / "l.fits")).counts == {"repeated": NUM}
    with pytest.raises(InputError, match="'kind' holds lists of 3 values"):
        read_labels(tmp_path / "l.fits", column="kind", classes=True)


def test_positions_as_text_that_are_all_empty_are_unknown(tmp_path):
    Table({"id": np.arange(NUM), "ra": [""] * NUM, "dec": [""] * NUM, "z_spec": Z}).write(tmp_path / "l.fits")
    labels = read_labels(tmp_path / "l.fits")
    assert np.isnan(labels.columns["ra"]).all()
    found = match_labels({"object_id": np.arange(NUM)}, labels)
    np.testing.assert_array_equal(labels.value[found.label_rows], Z)


def test_places_beside_the_redshifts_in_a_file_of_redrock(tmp_path, caplog):
    ids, path = IDENTITIES["beyond 2^53"], tmp_path / "redrock.fits"
    redshifts = {"TARGETID": ids, "Z": Z, "ZWARN": np.arange(NUM) % 2 * 4}
    places = {"TARGETID": ids, "TARGET_RA": RA, "TARGET_DEC": DEC, "COADD_FIBERSTATUS": np.arange(NUM) % 3}
    others = {"TARGETID": ids[::-1], "RA": RA, "DEC": DEC}
    named = {"REDSHIFTS": redshifts, "FIBERMAP": places, "EXP_FIBERMAP": others}
    hdus = [fits.BinTableHDU(Table(columns), name=name) for name, columns in named.items()]
    features = {"object_id": np.arange(NUM), "ra": RA, "dec": DEC}
    for order in (hdus, [hdus[0], hdus[2], hdus[1]]):
        fits.HDUList([fits.PrimaryHDU(), *order]).writeto(path, overwrite=True)
        labels = read_labels(path, column="Z", select=["ZWARN == 0", "COADD_FIBERSTATUS == 0"])
        found = match_labels(features, labels)
        np.testing.assert_array_equal(labels.value[found.label_rows], Z[found.rows])
        assert found.rows.tolist() == list(range(0, NUM, 6))
        assert "positions are taken from FIBERMAP in the same file" in caplog.text


def test_positions_beside_redshifts_without_identities(tmp_path, caplog):
    """COSMOS-Web's catalogue is such a file: one table of photometry, and others row by row."""
    photometry = Table({"id": np.arange(NUM) + 7, "ra": RA, "dec": DEC})
    named = {"PHOTOMETRY": photometry, "LEPHARE": Table({"zfinal": Z}), "SHORT": Table({"zpdf": Z[:3]})}
    hdus = [fits.BinTableHDU(table, name=name) for name, table in named.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "cosmos.fits")
    labels = read_labels(tmp_path / "cosmos.fits", column="zfinal")
    np.testing.assert_array_equal(labels.columns["ra"], RA)
    assert labels.columns["object_id"].tolist() == list(range(7, NUM + 7))
    assert "positions are taken from PHOTOMETRY in the same file" in caplog.text
    assert "ra" not in read_labels(tmp_path / "cosmos.fits", column="zpdf").columns


def test_angles_in_three_parts_are_those_of_astropy(tmp_path):
    rng = np.random.default_rng(5)
    sky = SkyCoord(rng.uniform(0, 360, 300), rng.uniform(-1, 1, 300), unit="deg")
    for sep in (":", " ", "letters"):
        ra = sky.ra.to_string("hour", sep="hms" if sep == "letters" else sep, precision=4)
        dec = sky.dec.to_string("deg", sep="dms" if sep == "letters" else sep, precision=3)
        found = tables.positions({"ra": ra, "dec": dec}, {}, "t")
        np.testing.assert_allclose(found.ra, Angle(ra, "hourangle").deg, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.dec, Angle(dec, "deg").deg, rtol=0, atol=1e-12)
    found = tables.positions({"ra": np.array(["24:00:00.0", "12:00:00.0"]), "dec": np.zeros(2)}, {}, "t")
    np.testing.assert_allclose(found.ra, [360, 180])  # 23:59:59.96 was rounded
    ra, dec = np.array(["10d30m36s", "11d00m00s"]), np.array(["-00:00:36", "00:30:00"])
    found = tables.positions({"ra": ra, "dec": dec}, {}, "t")  # letters say degrees
    np.testing.assert_allclose((found.ra, found.dec), ((10.51, 11), (-0.01, 0.5)))
    with pytest.raises(InputError, match="not an angle"):
        tables.positions({"ra": np.array(["10:61:00"]), "dec": np.array(["1:00:00"])}, {}, "t")


@pytest.mark.parametrize("form", ["degrees", "text"])
@pytest.mark.parametrize(
    "names",
    [
        ("RA(B1950)", "DEC(B1950)"),
        ("RA (1950)", "Dec (1950)"),
        ("ra [1950.0]", "dec [1950.0]"),
        ("ra_fk4", "dec_fk4"),
    ],
)
def test_places_whose_names_say_b1950(tmp_path, form, names):
    """Angles as text were taken as of J2000 without a word, and degrees were refused as of no angle."""
    ra, dec = OLD.ra.deg, OLD.dec.deg
    if form == "text":
        ra = OLD.ra.to_string("hour", sep=":", precision=4)
        dec = OLD.dec.to_string("deg", sep=":", precision=3)

    def found(*names, **columns):
        rows = "".join(f"{n},{a},{d}\n" for n, (a, d) in enumerate(zip(*columns.values(), strict=True)))
        (tmp_path / "t.csv").write_text(f"id,{names[0]},{names[1]}\n{rows}")
        catalogue = read_catalogue(tmp_path / "t.csv")
        return SkyCoord(catalogue["ra"], catalogue["dec"], unit="deg")

    assert found(*names, ra=ra, dec=dec).separation(SKY).arcsec.max() < 0.01
    new = [name.replace("B1950", "J2000").replace("1950", "2000").replace("fk4", "icrs") for name in names]
    if "50" not in "".join(new):
        assert found(*new, ra=RA, dec=DEC).separation(SKY).arcsec.max() < 0.01
    # that the header says so too counts once
    hdu = fits.table_to_hdu(Table({names[0]: OLD.ra.deg, names[1]: OLD.dec.deg}))
    hdu.header["EQUINOX"] = 1950.0
    hdu.writeto(tmp_path / "t.fits")
    catalogue = read_catalogue(tmp_path / "t.fits")
    assert SkyCoord(catalogue["ra"], catalogue["dec"], unit="deg").separation(SKY).arcsec.max() < 0.01


@pytest.mark.parametrize(
    "names",
    [
        ("X_WORLD", "Y_WORLD"),
        ("R.A.", "Dec."),
        ("Ra", "Decl"),
        ("meanRA", "meanDec"),
        ("RA_d", "DEC_d"),
        ("RAcen", "Deccen"),
        ("MEAN_FIBER_RA", "MEAN_FIBER_DEC"),
        ("obsra", "obsdec"),
        ("sky_center.ra", "sky_center.dec"),
    ],
)
def test_further_names_of_places(tmp_path, names):
    (tmp_path / "t.csv").write_text(f"id,{names[0]},{names[1]},z\n7,150.1,2.2,0.5\n9,150.2,2.3,0.7\n")
    catalogue = read_catalogue(tmp_path / "t.csv")
    assert catalogue["ra"].tolist() == [150.1, 150.2]
    assert catalogue["dec"].tolist() == [2.2, 2.3]


@pytest.mark.parametrize(
    ("names", "per_degree"),
    [
        ("RA_J2000_deg Dec_J2000_deg", 1),
        ("RA_hr Dec_deg", 15),
        ("raj2000_hours dej2000_deg", 15),
        ("RA_deg_ DEC_deg_", 1),
    ],
)
def test_units_at_the_end_of_names_of_positions(tmp_path, names, per_degree):
    (tmp_path / "t.txt").write_text(f"id {names}\n1 {150.15 / per_degree!r} 2.5\n")
    found = read_catalogue(tmp_path / "t.txt")
    np.testing.assert_allclose([found["ra"], found["dec"]], [[150.15], [2.5]])


@pytest.mark.parametrize(
    ("unit", "per_degree"),
    [
        ("deg (J2000)", 1), ("[deg]", 1), ("ICRS degrees", 1), ("Angle[deg]", 1), ("decimal hours", 1 / 15),
        ("hourangle (J2000)", 1 / 15), ("hours, J2000", 1 / 15), ("rad (ICRS)", np.pi / 180), ("mas", 3.6e6),
        ("microdeg", None), ("deg/1000", None), ("Angle", None),
    ],
)  # fmt: skip
def test_words_beside_a_unit_do_not_count(tmp_path, unit, per_degree):
    """Thousandths of degrees were taken as degrees, and hours with a word beside them were refused."""
    hdu = with_units(Table({"ra": [150.15 * (per_degree or 1)], "dec": [2.5 * (per_degree or 1)]}), {})
    hdu.header["TUNIT1"], hdu.header["TUNIT2"] = unit, unit
    if per_degree == 1 / 15:
        hdu.header["TUNIT2"], hdu.data["dec"] = "deg", 2.5
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "t.fits")
    if per_degree is None:
        with pytest.raises(InputError, match="not an angular unit"):
            read_catalogue(tmp_path / "t.fits")
    else:
        found = read_catalogue(tmp_path / "t.fits")
        np.testing.assert_allclose([found["ra"], found["dec"]], [[150.15], [2.5]])


@pytest.mark.parametrize(
    ("unit", "per_degree"), [("arcsec", 3600), ("radians", np.pi / 180), ("d/1000", None)]
)
def test_numbers_as_text_in_any_angular_unit(tmp_path, unit, per_degree):
    """They were taken as degrees whatever their unit, except for hours and radians."""
    angles = np.array([[150.15, 150.25], [2.5, 2.6]])
    ra, dec = (angles * (per_degree or 1)).astype(str)
    Table({"ra": ra, "dec": dec}, units={"ra": unit, "dec": unit}).write(tmp_path / "t.ecsv")
    if per_degree is None:
        with pytest.raises(InputError, match="not an angular unit"):
            read_catalogue(tmp_path / "t.ecsv")
    else:
        found = read_catalogue(tmp_path / "t.ecsv")
        np.testing.assert_allclose([found["ra"], found["dec"]], angles)


@pytest.mark.parametrize("quote", ["", '"'])
def test_names_as_casjobs_of_mast_writes_them(tmp_path, quote):
    names = ",".join(
        f"{quote}[{name}]:{kind}{quote}"
        for name, kind in (("objID", "Integer"), ("ra", "Float"), ("dec", "Float"), ("z_spec", "Float"))
    )
    (tmp_path / "t.csv").write_text(f"{names}\n{ROWS}\n")
    labels = read_labels(tmp_path / "t.csv")
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_array_equal(labels.columns["object_id"], np.arange(1, NUM + 1))


def test_json_of_skyserver(tmp_path):
    rows = [{"objid": n, "z_spec": z} for n, z in enumerate(Z.tolist())]
    content = [{"TableName": "Table1", "Rows": rows}, {"TableName": "Query", "Rows": [{"sql": "select"}]}]
    (tmp_path / "t.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(read_labels(tmp_path / "t.json").value, Z)


@pytest.mark.parametrize("ending", ["fits", "parquet"])
def test_two_columns_of_one_name_are_called_so(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_arrays([pa.array(Z)] * 3, names=["ra", "z_spec", "z_spec"]), path)
    else:
        fits.BinTableHDU.from_columns(
            [fits.Column(name=name, format="D", array=Z) for name in ("ra", "z_spec", "z_of")]
        ).writeto(path)
        path.write_bytes(path.read_bytes().replace(b"'z_of    '", b"'z_spec  '"))
    with pytest.raises(InputError, match="two columns are named 'z_spec'; rename"):
        tables.read(path)


def test_labels_without_rows_are_called_so(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,ra,dec,z_spec\n")
    with pytest.raises(InputError, match="has no rows"):
        read_labels(path)


def test_lists_of_one_value_in_parquet_are_values(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": np.arange(NUM), "z_spec": pa.array([[z] for z in Z])}), path)
    np.testing.assert_array_equal(read_labels(path).value, Z)


def test_a_votable_of_wavelengths_is_written_without_a_word(tmp_path):
    from deepfits.fitting.columns import describe

    columns = {"filter_wavelength_g": np.array([4800.0])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = tables.write_table(tmp_path / "t.vot", columns, describe=describe)
    assert tables.read(path).units == {"filter_wavelength_g": "Angstrom"}


@pytest.mark.parametrize(
    ("head", "per_degree"),
    [
        ("# id, ra, dec, z_spec\n", 1),  # as numpy.savetxt writes a header
        ("# id | ra | dec | z_spec\n", 1),
        ("# id: ra: dec: z_spec\n", 1),
        ("id, ra, dec, z_spec\n", 1),
        ("id ra dec z_spec\n# these are the brightest\n", 1),
        ("# id ra dec z_spec\n# after Smith et al.\n", 1),
        ("# written by J. Doe\n# id ra dec z_spec\n# number deg deg none\n", 1),
        ("# id ra dec z_spec\n# int64 hours deg float64\n", 1 / 15),
        ("id ra dec z_spec\n# number h deg redshift\n", 1 / 15),
        ("id ra dec z_spec\n# selected in 2020\n# again\n", 1),
        ("# id ra dec z_spec\n# - hours deg -\n", 1 / 15),
        ("# id ra dec z_spec\n# [] [hourangle] [deg] []\n", 1 / 15),
        ("id ra dec z_spec\n# none h deg none\n", 1 / 15),
    ],
)
def test_commas_and_units_in_the_head_of_a_table_apart_by_blanks(tmp_path, head, per_degree):
    path = tmp_path / "t.txt"
    rows = zip(range(NUM), (RA * per_degree).tolist(), DEC.tolist(), Z.tolist(), strict=True)
    path.write_text(head + "".join(f"{i} {r!r} {d!r} {z!r}\n" for i, r, d, z in rows))
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.value, Z)
    np.testing.assert_allclose(labels.columns["ra"], RA, atol=1e-9)
    np.testing.assert_array_equal(labels.columns["object_id"], np.arange(NUM))


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_separator_at_the_end_of_the_header_alone(tmp_path, separator):
    rows = [["id", "z_spec", ""], ["1", "0.1"], ["2", "0.2"]]
    (tmp_path / "t.txt").write_text("\n".join(map(separator.join, rows)))
    assert list(tables.read_table(tmp_path / "t.txt")) == ["id", "z_spec"]


@pytest.mark.parametrize("unit", ["none", "-", "unitless"])
def test_units_that_say_that_there_is_none(tmp_path, unit):
    path = tmp_path / "t.fits"
    columns = {"ra": RA, "dec": DEC, "z_spec": Z}
    fits.BinTableHDU.from_columns(
        [fits.Column(name=name, format="D", array=v, unit=unit) for name, v in columns.items()]
    ).writeto(path)
    np.testing.assert_allclose(read_labels(path).columns["ra"], RA, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "My redshifts,,\n,,\nid,ra,z_spec\n1,150.1,0.3\n2,150.2,0.4\n"),  # of a spreadsheet
        ("t.txt", "+--+--+\n| id | z_spec |\n+--+--+\n| 1 | 0.3 |\n| 2 | 0.4 |\n+--+--+\n"),
        ("t.txt", 'id z_spec note\n1 0.3 3"\n2 0.4 wide\n'),
        ("t.csv", 'id,z_spec,note\n1,0.3,"two\nlines, and ""more"""\n2,0.4,a 3" lens\n'),
    ],
)
def test_titles_of_spreadsheets_frames_and_lone_quotes(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    labels = read_labels(path)
    assert labels.value.tolist() == [0.3, 0.4]
    assert labels.columns["object_id"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("unit", "style", "per_degree"),
    [
        ("deg", "{}:{}:{}", 15), ("degrees", "{} {} {}", 15), ("deg", "{}h{}m{}s", 15),
        ("deg", "{}d{}m{}s", 1), ("d:m:s", "{}:{}:{}", 1), ("dms", "{} {} {}", 1),
    ],
)  # fmt: skip
def test_sexagesimal_right_ascensions_in_degrees_are_those_of_which_the_unit_says_so(
    tmp_path, caplog, unit, style, per_degree
):
    """All were taken as degrees, 140° off."""
    ra = [style.format("10", "00", "28.6"), style.format("09", "58", "00.1")]
    hdu = with_units(
        Table({"id": [0, 1], "ra": ra, "dec": ["+02:12:21", "-00:12:21"]}), {"ra": unit, "dec": "deg"}
    )
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "t.fits")
    found = read_catalogue(tmp_path / "t.fits")
    expected = per_degree * np.array([10 + 28.6 / 3600, 9 + 58 / 60 + 0.1 / 3600])
    np.testing.assert_allclose(found["ra"], expected, atol=1e-9)
    assert ("ra is taken as hours" in caplog.text) == (per_degree == 15 and "h" not in style)


def test_decimal_and_sexagesimal_right_ascensions_in_one_column_are_refused(tmp_path):
    def read(*entries, name="ra"):
        rows = [f"{n},{entry},2.5" for n, entry in enumerate(entries)]
        (tmp_path / "t.csv").write_text("\n".join([f"id,{name},dec", *rows]))
        table = tables.read(tmp_path / "t.csv")
        return tables.positions(table.columns, table.units, table.where).ra

    with pytest.raises(InputError, match=r"'150\.119' in row 2 and '10:00:28\.6' in row 1"):
        read("10:00:28.6", "150.119")
    with pytest.raises(InputError, match=r"'10\.01' in row 1 and '10:00:28\.6' in row 2"):
        read("10.01", "10:00:28.6")
    with pytest.raises(InputError, match=r"'150\.119' in row 2"):
        read("10:00:28.6", "150.119", name="ra (hours)")
    np.testing.assert_allclose(read("10:00:36", "10.01", name="ra (hours)"), [150.15, 150.15])
    np.testing.assert_allclose(read("10:00:36", "0", "-99", ""), [150.15, 0, np.nan, np.nan])
    np.testing.assert_allclose(read("150:09:00", "150.15"), [150.15, 150.15])


def test_ra_beside_declination_is_a_position():
    columns = {"id": np.arange(2), "RA": np.array([1.0, 2.0]), "Declination": np.array([3.0, 4.0])}
    assert tables.positions(columns, {}, "mine").names == ("RA", "Declination")


@pytest.mark.parametrize("equinox", ["1950", "1950.0", "B1950"])
def test_a_column_that_states_the_equinox_of_all_rows_is_used(tmp_path, caplog, equinox):
    old = SkyCoord([150.0, 151.0], [2.0, -2.0], unit="deg", frame=FK4(equinox="B1950"))
    path = tmp_path / "old.csv"
    rows = [f"{n},{p.ra.deg:.9f},{p.dec.deg:.9f},{equinox}" for n, p in enumerate(old)]
    path.write_text("\n".join(["id,ra,dec,EQUINOX", *rows]))
    table = tables.read(path)
    np.testing.assert_allclose(table.columns["ra"], old.icrs.ra.deg, atol=1e-7)
    np.testing.assert_allclose(table.columns["dec"], old.icrs.dec.deg, atol=1e-7)
    assert "converted from FK4 B1950" in caplog.text
    again = tables.read(tables.write_table(tmp_path / "new.csv", table.columns))  # and only once
    np.testing.assert_allclose(again.columns["ra"], table.columns["ra"], atol=1e-9)


def test_rows_of_different_equinoxes_cause_a_warning(tmp_path, caplog):
    path = tmp_path / "mixed.csv"
    path.write_text("id,ra,dec,equinox\n1,150.0,2.0,1950\n2,151.0,2.0,2000")
    assert tables.read(path).columns["ra"].tolist() == [150.0, 151.0]
    assert "different equinoxes (equinox)" in caplog.text


def test_positions_named_b1950_beside_an_equinox_are_converted_once(tmp_path):
    path = tmp_path / "old.csv"
    path.write_text("id,RAB1950,DEB1950,equinox\n1,150.0,2.0,1950\n2,151.0,2.0,1950")
    table = tables.read(path)
    assert table.columns["RAB1950"].tolist() == [150.0, 151.0]
    sky = tables.positions(table.columns, table.units, path)
    standard = tables.with_standard_names(table, sky)
    again = tables.read(tables.write_table(tmp_path / "new.csv", standard))
    np.testing.assert_allclose(again.columns["ra"], sky.ra, atol=1e-9)


def test_columns_that_are_names_of_subdirectories(tmp_path):
    """As pandas and DuckDB write them with `partition_cols`; they were lost."""
    pd = pytest.importorskip("pandas")
    flag = np.arange(NUM) % 4
    field = np.where(flag == 0, "GOODS N", np.where(flag == 1, None, "a=b"))
    frame = pd.DataFrame({"id": np.arange(NUM), "ra": RA, "dec": DEC, "z_spec": Z, "q": flag, "field": field})
    frame.to_parquet(tmp_path / "parts", partition_cols=["field", "q"])
    labels = read_labels(tmp_path / "parts", select=["q >= 2"])
    np.testing.assert_array_equal(np.sort(labels.value), np.sort(Z[flag >= 2]))
    labels = read_labels(tmp_path / "parts", select=["field == 'GOODS N'"])
    np.testing.assert_array_equal(labels.value, Z[flag == 0])
    assert (tables.read_table(tmp_path / "parts")["field"] == "").sum() == (flag == 1).sum()
    assert list(tables.read_table(tmp_path / "parts", columns=["id"])) == ["id"]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_patches_and_identities_with_commas_are_not_decimal_numbers(tmp_path, delimiter):
    """HSC's patch 4,5 was the field 4.5; and since commas seemed to be decimal ones, 12,345 was 12.345."""
    rows = [("id", "patch", "ra", "dec", "counts"), *((f"9,{n}", "4,5", n, 2, "12,345") for n in range(3))]
    lines = (delimiter.join(f'"{entry}"' for entry in row) for row in rows)
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = read_catalogue(tmp_path / "t.csv")
    assert found["object_id"].tolist() == ["9,0", "9,1", "9,2"]
    assert found["field"].tolist() == ["4,5"] * 3
    assert found["counts"].tolist() == ["12,345"] * 3


def test_identities_as_savetxt_writes_them(tmp_path):
    """They were called rounded by a spreadsheet, although all digits are there."""
    for ids, form in (
        (np.arange(NUM), "%.18e"),
        (np.arange(NUM) + 100_000, "%.8e"),
        (2.0**60 + 256 * RA, "%.18e"),
    ):
        np.savetxt(
            tmp_path / "t.txt", np.stack([ids, RA, DEC, Z], axis=1), fmt=form, header="id ra dec z_spec"
        )
        if ids.max() < 2**53:
            assert read_catalogue(tmp_path / "t.txt")["object_id"].tolist() == ids.tolist()
        else:
            with pytest.raises(
                InputError, match="id was written as floating point, in which numbers like 115"
            ):
                read_catalogue(tmp_path / "t.txt")
    np.savetxt(tmp_path / "t.txt", np.stack([ids, RA, DEC, Z], axis=1), fmt="%.5e", header="id ra dec z_spec")
    with pytest.raises(InputError, match=r"id '1\.15292e\+18' was rounded"):
        read_catalogue(tmp_path / "t.txt")


def test_identities_with_a_fraction_are_text(tmp_path):
    """Those of SMASH and NSC DR1 are a field and a number, which were read as decimal fractions."""
    lines = (f"169.{n},{ra},{dec}" for n, ra, dec in zip(range(10, 10 + NUM), RA, DEC, strict=True))
    (tmp_path / "t.csv").write_text("\n".join(["id,ra,dec", *lines]))
    assert read_catalogue(tmp_path / "t.csv")["object_id"][:11].tolist() == [
        f"169.{n}" for n in range(10, 21)
    ]


@pytest.mark.parametrize("name", ["QUICK_OBJECT_ID", "designation"])  # of DELVE; of AllWISE and 2MASS
def test_further_names_of_identities(tmp_path, name):
    Table({name: np.arange(NUM) + 7, "ra": RA, "dec": DEC}).write(tmp_path / "t.fits")
    assert read_catalogue(tmp_path / "t.fits")["object_id"][0] == 7


@pytest.mark.parametrize("null", ["---", "-9.99", ""])
def test_gaps_in_ascii_tables_of_fits(tmp_path, null):
    """Astropy cannot use the text of TNULL as a fill value, and reads an empty integer as 0."""
    flag, gap = np.arange(NUM) % 5, null or None
    parts = [("id", "I8", np.arange(NUM), None), ("ra", "F14.9", RA, None), ("dec", "F14.9", DEC, None),
             ("q", "I5", flag, gap), ("z_spec", "F8.4", Z, gap)]  # fmt: skip
    columns = [fits.Column(n, form, array=values, null=null, ascii=True) for n, form, values, null in parts]
    fits.TableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    content, row = (tmp_path / "t.fits").read_bytes(), b"%5d%8.4f" % (flag[3], Z[3])
    assert content.count(row) == 1
    (tmp_path / "t.fits").write_bytes(content.replace(row, b"%5s%8s" % (null.encode(), null.encode())))
    table = tables.read_table(tmp_path / "t.fits")
    assert np.flatnonzero(np.isnan(table["q"])).tolist() == [3]
    assert np.flatnonzero(np.isnan(table["z_spec"])).tolist() == [3]
    np.testing.assert_allclose(np.delete(table["z_spec"], 3), np.delete(Z, 3))
    assert len(read_labels(tmp_path / "t.fits", select=["q >= 0"])) == NUM - 1


def test_text_in_fits_ends_at_the_first_nul(tmp_path):
    """What follows it is undefined: programs in C write what the memory held before."""
    path = tmp_path / "t.fits"
    Table({"NAME": [b"abcdefgh", b"ijklmnop"], "z_spec": [0.1, 0.2]}).write(path)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"ab\0defgh").replace(b"ijklmnop", b"\0jklmnop"))
    assert tables.read_table(path)["NAME"].tolist() == ["ab", ""]


def test_data_frames_keep_columns_of_objects():
    """As read from a database: numbers, truth values and text, some of which are None."""
    frame = pd.DataFrame(
        {
            "id": pd.Series([2**62 + 1, None, 3], dtype=object),
            "z": pd.Series([0.1, None, 0.3], dtype=object),
            "good": pd.Series([True, None, False], dtype=object),
            "kind": ["a", None, np.nan],
            "mixed": pd.Series(["a", 1, None], dtype=object),
            "flux": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        }
    )
    found = tables.from_memory(frame, "frame")
    np.testing.assert_array_equal(found.columns.pop("z"), [0.1, np.nan, 0.3])
    assert {name: values.tolist() for name, values in found.columns.items()} == {
        "id": [str(2**62 + 1), "", "3"],
        "good": ["true", "", "false"],
        "kind": ["a", "", ""],
        "mixed": ["a", "1", ""],
        "flux": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    }
    with pytest.raises(InputError, match="frame: two columns are named 'id'"):
        tables.from_memory(frame[["id", "id"]], "frame")


def test_json_as_python_writes_it(tmp_path):
    rows = [{"id": 1, "z": float("nan"), "name": "a"}, {"id": 2, "z": 0.5, "name": 7}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    found = tables.read_table(tmp_path / "t.json")
    np.testing.assert_array_equal(found["z"], [np.nan, 0.5])
    assert found["name"].tolist() == ["a", "7"]


def test_text_of_fixed_length_in_parquet(tmp_path):
    pq.write_table(pa.table({"id": pa.array([b"ab", b"cd"], pa.binary(2))}), tmp_path / "t.parquet")
    assert tables.read_table(tmp_path / "t.parquet")["id"].tolist() == ["ab", "cd"]


@pytest.mark.parametrize(
    "text",
    [
        "id,name,ra,z\nlong,char(8),double,float\n1,a,150.1,0.1\n2,b,150.2,0.2\n",
        "id,name,ra,z\nBIGINT,varchar(255),DOUBLE PRECISION,numeric(5,3)\n1,a,150.1,0.1\n2,b,150.2,0.2\n",
        "id\tname\tra\tz\nint64\t<U8\tfloat64\tfloat32\n1\ta\t150.1\t0.1\n2\tb\t150.2\t0.2\n",
        "=== ==== ===== ===\n id name    ra   z\n=== ==== ===== ===\n  1 a    150.1 0.1\n  2 b    150.2 0.2\n"
        "=== ==== ===== ===\n",
    ],
)
def test_types_below_a_header_and_rules_of_restructuredtext(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    found = tables.read_table(tmp_path / "t.txt")
    assert {name: values.tolist() for name, values in found.items()} == {
        "id": [1, 2],
        "name": ["a", "b"],
        "ra": [150.1, 150.2],
        "z": [0.1, 0.2],
    }


def test_columns_of_unsupported_types_are_named(tmp_path, caplog):
    columns = {"id": [1, 2], "ra": [150.1, 150.2], "dec": [2.1, 2.2], "spectrum": [[1.0], [1.0, 2.0]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert "spectrum" not in read_catalogue(tmp_path / "t.parquet")
    assert "columns whose type is not supported are left out: spectrum (list<" in caplog.text


@pytest.mark.parametrize("ending", ["parquet", "csv", "fits", "vot", "ecsv", "jsonl"])
def test_text_whose_longest_entry_would_fill_the_memory_is_left_out(tmp_path, caplog, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    note = np.array(["x"] * NUM, dtype=object)
    note[3] = "y" * 500
    frame = pd.DataFrame({"object_id": IDENTITIES["names"], "ra": RA, "dec": DEC, "note": note})
    {
        "parquet": frame.to_parquet,
        "csv": lambda path: frame.to_csv(path, index=False),
        "jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
        "vot": lambda path: Table.from_pandas(frame).write(path, format="votable"),
    }.get(ending, Table.from_pandas(frame).write)(path)
    assert read_catalogue(path)["note"][3] == "y" * 500
    monkeypatch.setattr("deepfits.tables.table.MOST_LETTERS", 499 * NUM)
    columns = read_catalogue(path)
    assert columns["object_id"].tolist() == IDENTITIES["names"].tolist()
    assert "note" not in columns
    assert "left out: note (text of up to 500 letters)" in caplog.text


@pytest.mark.parametrize("ending", ["parquet", "h5", "csv"])
def test_blanks_and_quotes_around_names_do_not_count(tmp_path, ending):
    """As pandas keeps them from ``# id, ra, dec``."""
    names = {"id": "# id", "ra": " ra", "dec": "'dec'", "z_spec": ' "z_spec" '}
    columns = {"id": IDENTITIES["small"], "ra": RA, "dec": DEC, "z_spec": Z}
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(names.values()), *(",".join(map(repr, map(float, row))) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        write(tmp_path, ending, {names[name]: values for name, values in columns.items()}, {" ra": "deg"})
        path = next(tmp_path.glob("table.*"))
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.value, Z)
    assert labels.columns["object_id"].tolist() == IDENTITIES["small"].tolist()
    assert len(match_labels({"object_id": IDENTITIES["names"], "ra": RA, "dec": DEC}, labels).rows) == NUM


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        ("Delta Lake", "_delta_log/0.json"),
        ("Iceberg", "metadata/v1.metadata.json"),
        ("Hudi", ".hoodie/hoodie.properties"),
        ("Lance", "_versions/1.manifest"),
    ],
)
def test_tables_of_several_versions_are_refused(tmp_path, kind, inside):
    """Their files also hold rows of earlier versions, which were used beside those of now."""
    (tmp_path / inside).parent.mkdir()
    (tmp_path / inside).write_text("{}")
    pq.write_table(pa.table({"id": [1], "z_spec": [0.5]}), tmp_path / "part-0.parquet")
    with pytest.raises(InputError, match=f"{kind}.*, whose files also hold rows that were replaced"):
        tables.read(tmp_path)


@pytest.mark.parametrize("separator", [",", ";", " "])
def test_entries_in_single_quotes(tmp_path, separator):
    rows = [["'id'", "'name'", "'z'"], ["'1'", "'a b'", "'0.1'"], ["'2'", "'c d'", "'0.2'"]]
    (tmp_path / "t.csv").write_text("\n".join(map(separator.join, rows)) + "\n")
    found = tables.read_table(tmp_path / "t.csv")
    assert found["id"].tolist() == [1, 2]
    assert found["name"].tolist() == ["a b", "c d"]
    assert found["z"].tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("flags & 32 == 0", [1, 0, 0, 1]),
        ("(flags & 131072) != 0", [0, 0, 0, 1]),
        ("flags&32==0 and mag < 21", [1, 0, 0, 0]),
        ("flags == 33 & mag > 20", [0, 0, 1, 0]),
        ("flags & 1 == 0 & mag > 20", [0, 0, 0, 1]),
        ("mag > 19 & flags & 32 != 0 and mag < 21", [0, 1, 0, 0]),
        ("big & 9223372036854775808 > 0", [0, 1, 0, 1]),
        ("some & 4 == 0", [1, 0, 0, 1]),
        ("some & 4 != 0", [0, 1, 0, 0]),
        ("all & 64 != 0", [1, 0, 0, 0]),
        ("a & 1 >= 2", [0, 0, 1, 1]),
    ],
)
def test_conditions_on_bits(condition, expected):
    columns = {
        "flags": np.array([0, 32, 33, 2**17], np.int32),
        "big": np.array([0, 2**63, 5, 2**63 + 1], np.uint64),
        "some": np.array([0, 5, np.nan, 3]),
        "all": np.array([-1, 0, 1, 2], np.int16),
        "a & 1": np.arange(4),
        "mag": np.array([20.0, 20.0, 22.0, 23.0]),
    }
    assert tables.matches_conditions(columns, condition, "t").tolist() == [bool(n) for n in expected]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("(q >= 3) & (q < 9)", [0, 0, 1, 1, 0]),
        ("((q >= 3) and (kind == 'GALAXY'))", [0, 0, 0, 1, 1]),
        ("q == 1 or q == 9 | kind == QSO", [1, 0, 1, 0, 1]),
        ("q < 5 and (kind == QSO or kind == GALAXY)", [0, 1, 1, 1, 0]),
        ("kind == 'b (or) c' || (flags & 2) != 0 & q == 2", [0, 1, 0, 0, 0]),
        ("(flags & 4 == 0) & (q > 1)", [0, 1, 0, 1, 1]),
        ("1 < q <= 4", [0, 1, 1, 1, 0]),
        ("(3 <= q) and q <> 9", [0, 0, 1, 1, 0]),
        ("kind = STAR", [1, 0, 0, 0, 0]),
        ("type (a) == 2 and (type (a) > 1)", [0, 0, 1, 0, 0]),
        ("q in (3, 4, 9) and kind == GALAXY", [0, 0, 0, 1, 1]),
        ("kind NOT IN ('GALAXY', \"b, c\") or q in [4]", [1, 0, 1, 1, 0]),
        ("(flags in (0,2)) & (`q` not in (4)) & kind != 'q in (3)'", [1, 1, 0, 0, 0]),
    ],
)
def test_conditions_as_in_pandas_and_sql(condition, expected):
    columns = {
        "q": np.array([1, 2, 3, 4, 9]),
        "kind": np.array(["STAR", "GALAXY", "QSO", "GALAXY", "GALAXY"]),
        "flags": np.array([0, 2, 4, 0, 8]),
        "type (a)": np.array([1.0, np.nan, 2.0, 0.0, 1.0]),
    }
    chosen = tables.matches_conditions(columns, condition, "t")
    assert chosen.tolist() == [bool(n) for n in expected]
    again = tables.as_conditions(condition)
    assert tables.as_conditions(again) == again
    np.testing.assert_array_equal(tables.matches_conditions(columns, again, "t"), chosen)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("kind != 'STAR' and is_good", [0, 0, 1, 0]),
        ("is_good & (q > 1)", [0, 0, 1, 0]),
        ("(q > 1) & is_good", [0, 0, 1, 0]),
        ("is_good & flags & 4 == 0", [1, 0, 0, 0]),
        ("not is_good or q == 1", [1, 1, 0, 0]),
        ("~`is_good`", [0, 1, 0, 0]),
        ("q % 10 >= 3", [0, 0, 1, 1]),
        ("mag_g - mag_i < 0.5", [1, 0, 0, 1]),
        ("flux / `flux err` > 5 and q < 20", [0, 1, 1, 0]),
        ("z < z_max", [1, 0, 0, 0]),
        ("0.2 < mag_g - mag_i", [0, 1, 0, 0]),
        ("z is null", [0, 0, 1, 0]),
        ("z IS NOT NULL and kind is not null", [1, 1, 0, 0]),
        ("is_good is true", [1, 0, 1, 0]),
        ("big == other", [1, 0, 0, 0]),
        ("q-1 == 7", [0, 0, 1, 0]),
        ("2 & flags != 0", [0, 1, 0, 0]),
        ("is_good and 0.2 < z", [1, 0, 0, 0]),
        ("q > 1 and is_good and 3 < flags <= 4", [0, 0, 1, 0]),
        ("not is_good or 20 < q", [0, 1, 0, 1]),
        ("flag-is-set == 1", [1, 0, 0, 0]),
        ("`which is it` == 2", [0, 1, 0, 0]),
        ("z is  not  null and q < 20", [1, 1, 0, 0]),
        ("written < z_max", [1, 0, 0, 0]),
        ("written != z", [1, 0, 0, 0]),
        ("kind != other_kind", [1, 0, 1, 0]),
        ("kind != 'other_kind'", [1, 1, 1, 0]),
        ("-q + 10 > -mag_i + 20.5", [1, 1, 0, 0]),
        ("not (z > 0.4)", [0, 1, 0, 0]),
        ("NOT z > 0.4 and q < 20", [0, 1, 0, 0]),
        ("~(z > 0.4 or is_good)", [0, 1, 0, 0]),
        ("not (z > 0.4 and is_good) and q < 20", [0, 1, 0, 0]),
        ("kind == GALAXY or !(kind in (STAR, GALAXY) or 0.1 < z < 0.2)", [0, 1, 1, 0]),
        ("not (not (is_good))", [1, 0, 1, 0]),
        ("not z is null and not (kind is not null)", [0, 0, 0, 1]),
        ("q between 2 and 13 and z is null", [0, 0, 1, 0]),
        ("(z NOT BETWEEN 0.4 AND 0.6) & kind != 'q between 1 and 2'", [0, 1, 0, 0]),
        ("abs(mag_i - 20) between 0.4 and 1 and q < 20", [0, 1, 0, 0]),
        ("q < 20 and (mag_g - mag_i) not in (0, 1)", [1, 0, 0, 0]),
        ("not -mag_g + mag_i between -0.5 and 1", [0, 1, 0, 0]),
        ("abs(mag_g - mag_i) < 0.5 and (mag_i - 20) ** 2 < 0.5", [1, 0, 0, 0]),
        ("13 == q", [0, 0, 1, 0]),
        ("'flux err' == 2", [0, 0, 0, 0]),
        ("not (flags & 4)", [1, 1, 0, 1]),
        ("flags & 6 and not is_good", [0, 1, 0, 0]),
        ("z < `z_max` < 1", [1, 0, 0, 0]),
        ("not (0.9 >= z_max > z)", [0, 1, 1, 1]),
        ("not (q in (1, 2) and not z between 0.4 and 1)", [1, 0, 1, 1]),
        ("kind == QSO & 3 > q", [0, 1, 0, 0]),
        ("((mag_g - mag_i)) * (q) > 0.05 and (q % 2)==1", [1, 0, 0, 0]),
    ],
)
def test_conditions_on_truth_on_what_is_missing_and_on_what_columns_give_together(condition, expected):
    columns = {
        "q": np.array([1, 2, 13, 24], np.uint8),
        "q-1": np.array([0, 0, 7, 0]),
        "kind": np.array(["STAR", "QSO", "GALAXY", ""]),
        "is_good": np.array(["true", "false", "true", ""]),
        "flags": np.array([0, 2, 4, 0], np.int16),
        "mag_g": np.array([20.1, 22.0, np.nan, 21.0]),
        "mag_i": np.array([20.0, 21.0, 20.0, 21.0]),
        "flux": np.array([5, 6, 7, 8]),
        "flux err": np.array([1.0, 1.0, 0.0, 1.0]) + np.array([0, 0, 1, 0]),
        "z": np.array([0.5, 0.3, np.nan, 1.0]),
        "z_max": np.array([0.9, 0.2, 1.0, 0.5]),
        "written": np.array(["0.1", "0.3", "--", "--"]),
        "other_kind": np.array(["QSO", "QSO", "STAR", "QSO"]),
        "flag-is-set": np.array([1, 0, 0, 0]),
        "which is it": np.array([1, 2, 3, 4]),
        "big": np.array([2**60, 2**60 + 1, 0, 1]),
        "other": np.array([2**60, 2**60, 1, 2]),
    }
    for conditions in (condition, tables.as_conditions(condition)):
        assert tables.matches_conditions(columns, conditions, "t").tolist() == [bool(n) for n in expected]


class _RandomConditions:
    """Conditions as we write them and as SQL does, by random choice."""

    LEAVES = (
        ("q > 2", "q > 2"),
        ("4 >= q", "4 >= q"),
        ("q != 3", "q != 3"),
        ("kind == STAR", "kind = 'STAR'"),
        ("kind <> 'GALAXY'", "kind <> 'GALAXY'"),
        ("kind not in ('STAR', \"b, c\")", "kind not in ('STAR', 'b, c')"),
        ("kind is null", "kind is null"),
        ("z is not null", "z is not null"),
        ("0.1 < z <= 0.5", "(0.1 < z and z <= 0.5)"),
        ("z < z_max < 0.5", "(z < z_max and z_max < 0.5)"),
        ("z between 0.1 and 0.4", "z between 0.1 and 0.4"),
        ("(z - z_max) not between -0.1 and 0.1", "(z - z_max) not between -0.1 and 0.1"),
        ("abs(z - z_max) < 0.15", "abs(z - z_max) < 0.15"),
        ("flags & 4 != 0", "(flags & 4) <> 0"),
        ("(flags & 2)", "(flags & 2) <> 0"),
        ("q in (1, 3, 9)", "q in (1, 3, 9)"),
        ("is_good", "is_good"),
    )

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def pair(self, depth):
        choice = self.rng.random()
        if depth == 0 or choice < 0.2:
            return self.LEAVES[self.rng.integers(len(self.LEAVES))]
        ours, theirs = self.pair(depth - 1)
        if choice < 0.45:
            return self.rng.choice(["not ", "~", "NOT", "!"]) + f"({ours})", f"not ({theirs})"
        if choice < 0.55:
            return f"({ours})", f"({theirs})"
        joint, signs = ("and", [" and ", " & ", "&&"]) if choice < 0.78 else ("or", [" or ", " | ", "||"])
        others = self.pair(depth - 1)
        return ours + self.rng.choice(signs) + others[0], f"{theirs} {joint} {others[1]}"


def test_conditions_choose_what_a_data_base_chooses():
    duckdb = pytest.importorskip("duckdb")
    rng, number = np.random.default_rng(4), 40
    columns = {
        "q": rng.integers(0, 10, number),
        "kind": rng.choice(["STAR", "GALAXY", "b, c", ""], number),
        "z": np.where(rng.random(number) < 0.2, np.nan, rng.random(number).round(2)),
        "z_max": np.where(rng.random(number) < 0.2, np.nan, rng.random(number).round(2)),
        "flags": rng.integers(0, 8, number),
        "is_good": rng.random(number) < 0.5,
    }
    with duckdb.connect() as base:
        base.execute(
            "create table t "
            "(n bigint, q bigint, kind text, z double, z_max double, flags bigint, is_good boolean)"
        )
        for row in zip(range(number), *(values.tolist() for values in columns.values()), strict=True):
            base.execute(
                "insert into t values (?, ?, ?, ?, ?, ?, ?)",
                [None if v in ("",) or v != v else v for v in row],
            )
        conditions = _RandomConditions(8)
        for _ in range(400):
            ours, theirs = conditions.pair(4)
            expected = [n for (n,) in base.execute(f"select n from t where {theirs} order by n").fetchall()]
            for written in (ours, tables.as_conditions(ours)):
                chosen = tables.matches_conditions(columns, written, "t")
                assert np.flatnonzero(chosen).tolist() == expected, ours


def test_labels_elsewhere_are_told_where_they_are():
    features = {"object_id": np.arange(3), "ra": np.full(3, 150.1), "dec": np.array([2.0, 2.5, np.nan])}
    columns = {"ra": np.array([10.0, 11.0]), "dec": np.array([-1.0, -2.0])}
    labels = Labels(value=np.full(2, 0.3), columns=columns, where="labels.fits")
    said = "labels are 10.0000 to 11.0000 and -2.0000 to -1.0000, of the objects .* and 2.0000 to 2.5000"
    with pytest.raises(InputError, match=said):
        match_labels(features, labels)


def test_declinations_beyond_the_poles_are_no_positions():
    """As -99 for unknown ones, which were that of another place beyond the pole."""
    other = np.array([-99.0, 99.0, 10.0])
    rows, _ = match_positions(np.array([81.0, 279.0, 10.0]), np.array([-81.0, 81.0, 10.0]), other, other, 1.0)
    assert rows.tolist() == [-1, -1, 2]


def test_positions_are_matched_as_astropy_does():
    """At the poles and at 0 and 360 degrees too, where coordinates jump."""
    rng = np.random.default_rng(5)
    ra, dec = np.concatenate([rng.uniform(0, 360, 400), [0.0, 360.0, np.nan]]), np.full(403, 45.0)
    dec[:400] = rng.choice([-89.9999, 89.9999, 0.0, 30.0], 400) + rng.uniform(-1e-4, 1e-4, 400)
    dec = np.clip(dec, -90, 90)
    other_ra, other_dec = (
        (ra + rng.normal(0, 2e-4, 403)) % 360,
        np.clip(dec + rng.normal(0, 2e-4, 403), -90, 90),
    )
    rows, apart = match_positions(ra, dec, other_ra, other_dec, 1.0)
    good = np.isfinite(ra)
    here, there = (
        SkyCoord(ra[good], dec[good], unit="deg"),
        SkyCoord(other_ra[good], other_dec[good], unit="deg"),
    )
    nearest, separation, _ = here.match_to_catalog_sky(there)
    expected = np.where(separation.arcsec <= 1, np.flatnonzero(good)[nearest], -1)
    np.testing.assert_array_equal(rows[good], expected)
    assert rows[~good].tolist() == [-1]
    assert (rows >= 0).sum() > 200
    np.testing.assert_allclose(
        apart[rows >= 0], separation.arcsec[separation.arcsec <= 1], rtol=1e-5, atol=1e-7
    )


def test_an_offset_of_labels_most_of_which_lie_elsewhere_is_found(tmp_path):
    rng = np.random.default_rng(0)
    features = {"object_id": np.arange(60), "ra": rng.uniform(150, 150.1, 60), "dec": rng.uniform(2, 2.1, 60)}
    ra, dec = np.append(features["ra"], rng.uniform(0, 360, 60_000)), features["dec"] + 1.6 / 3600
    features["dec"][0] = np.nan
    dec = np.append(dec, rng.uniform(-60, 60, 60_000))
    labels = Labels(value=np.full(len(ra), 0.3), columns={"ra": ra, "dec": dec}, where="labels.fits")
    with pytest.raises(InputError, match=r"offset by .*\+1.60″ in declination"):
        match_labels(features, labels, radius_arcsec=1.5)


def test_columns_of_parquet_are_released_once_they_are_converted(tmp_path, monkeypatch):
    pq.write_table(pa.table({f"c{n}": np.arange(9.0) for n in range(3)}), tmp_path / "t.parquet")
    flat, convert, made, alive = parquet._flat, parquet.from_arrow, [], []

    def noted(table, where):
        made.append(weakref.ref(table := flat(table, where)))
        return table

    def counted(column):
        alive.append(sum(table() is not None for table in made))
        return convert(column)

    monkeypatch.setattr(parquet, "_flat", noted)
    monkeypatch.setattr(parquet, "from_arrow", counted)
    assert tables.read(tmp_path / "t.parquet").columns["c2"].sum() == 36
    assert made
    assert alive == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "word"),
    [("fraction", "only columns of whole"), ("text", "no column"), ("truth", "only columns of whole")],
)
def test_only_whole_numbers_have_bits(name, word):
    columns = {"fraction": np.array([0.5]), "text": np.array(["a"]), "truth": np.array([True])}
    with pytest.raises(InputError, match=word):
        tables.matches_conditions(columns, f"{name} & 1 == 0", "t")


@pytest.mark.parametrize("bits", ["2.5", "-4", "fraction"])
def test_bits_are_whole_numbers(bits):
    columns = {"flags": np.array([4]), "fraction": np.array([0.5])}
    with pytest.raises(InputError, match="only columns of whole"):
        tables.matches_conditions(columns, f"(flags & {bits}) == 0", "t")


@pytest.mark.parametrize(("kind", "zero"), [("I", 2.0**15), ("J", 2.0**31), ("K", 2.0**63)])
def test_unsigned_integers_whose_offset_is_written_with_a_point(tmp_path, kind, zero):
    """TZERO is a real number by the FITS standard, although most programs write an integer."""
    values = np.array([0, 7, 2 * int(zero) - 1], dtype=f"u{2 * {'I': 1, 'J': 2, 'K': 4}[kind]}")
    hdu = fits.BinTableHDU.from_columns([fits.Column("id", kind, bzero=int(zero), array=values)])
    hdu.writeto(tmp_path / "t.fits")
    content = (tmp_path / "t.fits").read_bytes()
    place = content.index(b"TZERO1  =")
    card = f"TZERO1  = {zero:>20.14E}".encode().ljust(80)
    (tmp_path / "t.fits").write_bytes(content[:place] + card + content[place + 80 :])
    assert tables.read_table(tmp_path / "t.fits")["id"].tolist() == values.tolist()


@pytest.mark.parametrize("dimension", ["(1)", "(3,5)", "none"])
def test_dimensions_that_do_not_fit_their_column_are_ignored(tmp_path, dimension):
    """CasJobs of SDSS writes (1) for all text: astropy reads a letter of it, and the row from there."""
    columns = [
        fits.Column("objID", "19A", array=IDENTITIES["beyond 2^53"].astype(str)),
        fits.Column("ra", "D", array=RA),
        fits.Column("bands", "6A", dim="(2,3)", array=np.full((NUM, 3), "gr")),
        fits.Column("flux", "6E", dim="(2,3)", array=np.ones((NUM, 3, 2))),
        fits.Column("dec", "D", array=DEC),
    ]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header["TDIM1"] = dimension
    hdu.writeto(tmp_path / "t.fits")
    found = tables.read_table(tmp_path / "t.fits")
    assert found["objID"].tolist() == IDENTITIES["beyond 2^53"].astype(str).tolist()
    np.testing.assert_array_equal(found["dec"], DEC)
    assert found["bands"].tolist() == [["gr"] * 3] * NUM
    assert found["flux"].shape == (NUM, 3, 2)


def test_columns_of_variable_length_whose_entries_are_alike(tmp_path):
    """One number each, or text, or as many numbers, in FITS and in VOTables of services."""
    parts = {
        "PD()": [np.array([0.1]), np.zeros(0), np.array([0.3])],
        "PK()": [np.array([2**62 + n]) for n in range(3)],
        "PA()": ["abc", "", "de"],
        "PE()": [np.arange(2.0) + n for n in range(3)],
        "PJ()": [np.arange(n) for n in range(3)],
    }
    columns = [fits.Column(n, n, array=np.array([*v, None], object)[:-1]) for n, v in parts.items()]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    found = tables.read(tmp_path / "t.fits")
    np.testing.assert_array_equal(found.columns["PD()"], [0.1, np.nan, 0.3])
    assert found.columns["PK()"].tolist() == [2**62, 2**62 + 1, 2**62 + 2]
    assert found.columns["PA()"].tolist() == ["abc", "", "de"]
    assert found.columns["PE()"].tolist() == [[0, 1], [1, 2], [2, 3]]
    assert found.unused == {"PJ()": "object"}
    (tmp_path / "t.xml").write_text(
        '<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE>'
        '<TABLE><FIELD name="id" datatype="long"/><FIELD name="z" datatype="double" arraysize="*"/><DATA>'
        "<TABLEDATA><TR><TD>1</TD><TD>0.5</TD></TR><TR><TD>2</TD><TD/></TR></TABLEDATA></DATA></TABLE>"
        "</RESOURCE></VOTABLE>"
    )
    np.testing.assert_array_equal(tables.read_table(tmp_path / "t.xml")["z"], [0.5, np.nan])


def test_a_second_line_in_the_header_of_aastex(tmp_path):
    (tmp_path / "t.tex").write_text(
        "\\begin{deluxetable}{lccc}\n\\tablecaption{Redshifts}\n\\tablehead{\n"
        "\\colhead{ID} & \\colhead{R.A.} & \\colhead{Decl.} & \\colhead{$z_{spec}$} \\\\\n"
        "\\colhead{} & \\colhead{(deg)} & \\colhead{(deg)} & \\colhead{}\n}\n\\startdata\n"
        "7 & 150.1 & $-$2.1 & 0.1\\tablenotemark{a} \\\\\n"
        "9\\tnote{b} & 150.2 & $-$2.2 & \\nodata \\\\\n\\enddata\n\\end{deluxetable}\n"
    )
    found = tables.read(tmp_path / "t.tex")
    assert found.units == {"R.A.": "deg", "Decl.": "deg"}
    np.testing.assert_array_equal(found.columns["z_spec"], [0.1, np.nan])
    catalogue = read_catalogue(tmp_path / "t.tex")
    assert catalogue["object_id"].tolist() == [7, 9]
    assert catalogue["dec"].tolist() == [-2.1, -2.2]


@pytest.mark.parametrize("declared", ["", 'arraysize="2"', 'arraysize="3*"', 'arraysize="2x3"'])
def test_text_in_votables_that_is_longer_than_declared(tmp_path, declared):
    """Without arraysize a field holds one letter by the standard, which is rarely what is meant."""
    fields = f'<FIELD ID="i" datatype="char" {declared} name="id" utype="a/b"/>'
    fields += '<FIELD name="kind" datatype="string" unit="m/s"><DESCRIPTION>b &gt; a</DESCRIPTION></FIELD>'
    rows = "".join(f"<TR><TD>NGC {n}</TD><TD>galaxy</TD></TR>" for n in (891, 4535))
    (tmp_path / "t.vot").write_text(
        f'<VOTABLE version="1.3"><RESOURCE><TABLE>{fields}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE>'
        "</RESOURCE></VOTABLE>"
    )
    found = tables.read(tmp_path / "t.vot")
    assert found.columns["id"].tolist() == ["NGC 891", "NGC 4535"]
    assert found.columns["kind"].tolist() == ["galaxy", "galaxy"]


@pytest.mark.parametrize(
    ("name", "values"), [("_FillValue", [5, -999, 7]), ("missing_value", [5.5, 1e20, 7])]
)
def test_values_that_netcdf_marks_as_missing(tmp_path, name, values):
    with h5py.File(tmp_path / "t.nc", "w") as file:
        file["id"], file["mass"] = [1, 2, 3], values
        file["note"] = np.array(["a", "-999", ""], dtype=object)
        file["mass"].attrs[name] = np.array([values[1]], np.array(values).dtype)
        file["note"].attrs[name] = ""
    found = tables.read_table(tmp_path / "t.nc")
    np.testing.assert_array_equal(found["mass"], [values[0], np.nan, values[2]])
    assert found["note"].tolist() == ["a", "-999", ""]


def test_masks_of_lists_that_astropy_writes_into_parquet(tmp_path):
    mask = np.arange(6).reshape(3, 2) == 3
    Table({"aperture": MaskedColumn(np.ones((3, 2)), mask=mask)}).write(tmp_path / "t.parquet")
    found = tables.read_table(tmp_path / "t.parquet")["aperture"]
    np.testing.assert_array_equal(found, np.where(mask, np.nan, 1))


@pytest.mark.parametrize("name", ["t.fits", "t.fits.gz"])
def test_fits_in_parts_is_the_fits_of_astropy(tmp_path, monkeypatch, name):
    """Whatever the number of rows that are converted together: all types, lists of lists, no row at all."""
    monkeypatch.setattr(writing, "ROWS", 3)
    for number in (0, 1, 3, 7):
        values = np.random.default_rng(0).random((number, 2, 3)) * 100
        kinds = ("i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "?", "c16", ">f4")
        columns = {f"n{place}": values[:, 0, 0].astype(kind) for place, kind in enumerate(kinds)}
        columns |= {f"m{place}": values.astype(kind) for place, kind in enumerate(kinds)}
        columns["text"] = np.array([f"{n}" * n for n in range(number)], dtype="U9")
        path = tables.write_table(tmp_path / name, columns)
        fits.table_to_hdu(Table(columns)).writeto(tmp_path / "whole.fits", overwrite=True)
        with fits.open(path) as ours, fits.open(tmp_path / "whole.fits") as theirs:
            assert fits.HDUDiff(ours[1], theirs[1]).identical
            assert ours[1].header == theirs[1].header


def test_fits_is_written_without_further_copies(tmp_path):
    columns = {f"c{n}": np.zeros(200_000) for n in range(40)}  # 64 MB
    tracemalloc.start()
    tables.write_table(tmp_path / "t.fits", columns)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48e6  # several copies of 16,384 rows; of the whole, 256 MB
