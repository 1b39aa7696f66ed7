"""What a model calls a language, as the code that recipes use: ISO 639-1 where there is one, ISO 639-3 elsewhere.

Models of fastText name languages in two ways. lid.176 has the codes of Wikipedia's editions, `en`, `als`, which mean
themselves. GlotLID and FLORES have ISO 639-3 with a script, `eng_Latn`; such a code may name the usual member of a
macrolanguage, as `arb` (Standard Arabic) of `ara`, and becomes the macrolanguage's code. What stands beside the usual
member (`arz`, Egyptian Arabic; `yue`, Cantonese) keeps its own.

The tables are those of the Library of Congress (ISO 639-2) and of SIL (ISO 639-3, macrolanguages).
"""

from __future__ import annotations

_SAME = """
aar aa abk ab afr af aka ak amh am ara ar arg an asm as ava av ave ae aym ay aze az bak ba bam bm bel be ben bn bis bi
bod bo bos bs bre br bul bg cat ca ces cs cha ch che ce chu cu chv cv cor kw cos co cre cr cym cy dan da deu de div dv
dzo dz ell el eng en epo eo est et eus eu ewe ee fao fo fas fa fij fj fin fi fra fr fry fy ful ff gla gd gle ga glg gl
glv gv grn gn guj gu hat ht hau ha heb he her hz hin hi hmo ho hrv hr hun hu hye hy ibo ig ido io iii ii iku iu ile ie
ina ia ind id ipk ik isl is ita it jav jv jpn ja kal kl kan kn kas ks kat ka kau kr kaz kk khm km kik ki kin rw kir ky
kom kv kon kg kor ko kua kj kur ku lao lo lat la lav lv lim li lin ln lit lt ltz lb lub lu lug lg mah mh mal ml mar mr
mkd mk mlg mg mlt mt mon mn mri mi msa ms mya my nau na nav nv nbl nr nde nd ndo ng nep ne nld nl nno nn nob nb nor no
nya ny oci oc oji oj ori or orm om oss os pan pa pli pi pol pl por pt pus ps que qu roh rm ron ro run rn rus ru sag sg
san sa sin si slk sk slv sl sme se smo sm sna sn snd sd som so sot st spa es sqi sq srd sc srp sr ssw ss sun su swa sw
swe sv tah ty tam ta tat tt tel te tgk tg tgl tl tha th tir ti ton to tsn tn tso ts tuk tk tur tr twi tw uig ug ukr uk
urd ur uzb uz ven ve vie vi vol vo wln wa wol wo xho xh yid yi yor yo zha za zho zh zul zu
"""
_USUAL_MEMBER = """
als sq arb ar ayr ay azj az cmn zh ekk et fil tl gaz om gug gn khk mn kmr ku knc kr lvs lv npi ne ory or pbt ps pes fa
plt mg swh sw uzn uz ydd yi zsm ms
"""


def _pairs(table: str) -> dict[str, str]:
    codes = table.split()
    return dict(zip(codes[::2], codes[1::2], strict=True))


ISO_639_1 = _pairs(_SAME)
"""From ISO 639-3 to ISO 639-1, where both mean the same."""
USUAL_MEMBERS = _pairs(_USUAL_MEMBER)
"""From the ISO 639-3 code of a macrolanguage's usual member to the macrolanguage's ISO 639-1 code."""


def language_code(label: str) -> str:
    """The code of what a model calls `label`: "en" for `en`, `eng` and `eng_Latn`, "arz" for `arz_Arab`."""
    code, _, script = label.partition("_")
    if script and code in USUAL_MEMBERS:
        return USUAL_MEMBERS[code]
    return ISO_639_1.get(code, code)
