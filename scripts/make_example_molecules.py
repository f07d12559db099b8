"""Write the example molecules of chemscale: 40,000 drug-like SMILES, made by RDKit reactions.

Candidate ``i`` is a pure function of ``i``: a keyed hash picks a route (one to three steps)
and a building block for every step. Candidates that do not react in exactly one way, fail the
drug-like filter or were met before are dropped, until there are enough; so the first 200 take a
second to make again. They are written in the order of another keyed hash, because the small
products run out first as candidates go by; so any prefix of the file is a fair sample of the whole.
Nothing depends on ``PYTHONHASHSEED``. The file is byte-identical for the same RDKit (canonical
SMILES may change between releases) and zlib; the shipped one was made with RDKit 2026.09.1.

The blocks and the reaction SMARTS were written down for this script. The products are what the
reactions give on paper: nobody has made them, and no activity is implied.

    python scripts/make_example_molecules.py        # a minute and a half on one core
"""
# A page of SMILES is easier to read and to edit without quotes and commas.
# ruff: noqa: SIM905

import argparse
import gzip
import hashlib
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import Crippen, Descriptors, Lipinski, rdChemReactions

KEY = "chemscale example molecules 1"
NUM_MOLECULES = 40_000
OUTPUT = Path(__file__).parents[1] / "src/chemscale/bench/data/examples/molecules.csv.gz"

# Building blocks by the one thing they do. In the electrophiles iodine marks the leaving group,
# whatever the bottle holds (F, Cl, SO2Me), so that a chlorine kept as decoration cannot react.
BLOCKS: dict[str, list[str]] = {
    "acid": """
        CC(=O)O CCC(=O)O CC(C)C(=O)O CC(C)(C)C(=O)O CC(C)CC(=O)O OC(=O)C1CC1 OC(=O)C1CCC1
        OC(=O)C1CCCC1 OC(=O)C1CCCCC1 OC(=O)C1CCOCC1 OC(=O)C1CCOC1 COCC(=O)O OC(=O)CC#N
        OC(=O)C(F)(F)F OC(=O)C1(CC1)C OC(=O)CC1CCCCC1 OC(=O)CCc1ccccc1 OC(=O)Cc1ccccc1
        OC(=O)Cc1ccc(F)cc1 OC(=O)Cc1ccc(Cl)cc1 OC(=O)Cc1ccc(OC)cc1 OC(=O)Cc1cccs1 OC(=O)Cc1ccccn1
        OC(=O)COc1ccccc1 OC(=O)COc1ccc(Cl)cc1 OC(=O)/C=C/c1ccccc1 OC(=O)/C=C/c1ccco1 OC(=O)c1ccccc1
        OC(=O)c1ccccc1C OC(=O)c1cccc(C)c1 OC(=O)c1ccc(C)cc1 OC(=O)c1ccccc1F OC(=O)c1cccc(F)c1
        OC(=O)c1ccc(F)cc1 OC(=O)c1ccccc1Cl OC(=O)c1cccc(Cl)c1 OC(=O)c1ccc(Cl)cc1 OC(=O)c1ccc(Br)cc1
        OC(=O)c1ccc(OC)cc1 OC(=O)c1cccc(OC)c1 OC(=O)c1ccccc1OC OC(=O)c1ccc(C#N)cc1
        OC(=O)c1ccc(cc1)C(F)(F)F OC(=O)c1cccc(c1)C(F)(F)F OC(=O)c1ccc(cc1)S(C)(=O)=O
        OC(=O)c1ccc(cc1)C(C)(C)C OC(=O)c1ccc(cc1)N(C)C OC(=O)c1ccc(F)c(F)c1 OC(=O)c1ccc(Cl)c(Cl)c1
        OC(=O)c1c(F)cccc1F OC(=O)c1ccc2OCOc2c1 OC(=O)c1ccc2OCCOc2c1 OC(=O)c1ccncc1 OC(=O)c1cccnc1
        OC(=O)c1ccccn1 OC(=O)c1ccc(Cl)nc1 OC(=O)c1cnccn1 OC(=O)c1cncnc1 OC(=O)c1ccco1 OC(=O)c1cccs1
        OC(=O)c1ccsc1 OC(=O)c1ccoc1 OC(=O)c1cc(C)on1 OC(=O)c1c(C)noc1C OC(=O)c1cc(C)n(C)n1
        OC(=O)c1cnn(C)c1 OC(=O)c1cscn1 OC(=O)c1csc(C)n1 OC(=O)c1cn(C)cn1 OC(=O)c1cc2ccccc2[nH]1
        OC(=O)c1c[nH]c2ccccc12 OC(=O)c1cc2ccccc2o1 OC(=O)c1cc2ccccc2s1 OC(=O)c1ccc2ccccc2c1
        OC(=O)c1ccc2ncccc2c1 OC(=O)c1cnc2ccccc2n1 OC(=O)c1ccc2[nH]ncc2c1 OC(=O)C1CCN(C(C)=O)CC1
        OC(=O)[C@@H]1CCCO1 OC(=O)[C@H]1CC(=O)N(C)C1 OC(=O)[C@@H](C)Oc1ccccc1
        OC(=O)[C@H](C)c1ccccc1""".split(),
    "amine": """
        CN CCN CCCN CC(C)N CC(C)CN NC1CC1 NC1CCC1 NC1CCCC1 NC1CCCCC1 NCC1CC1 NCC1CCCCC1 COCCN
        CN(C)CCN NCC(F)(F)F CNC CCNCC C1CCNC1 C1CCNCC1 C1COCCN1 C1CSCCN1 CN1CCNCC1 CC1CCNCC1
        OC1CCNCC1 FC1(F)CCNCC1 FC1(F)CCNC1 COC1CCNCC1 N#CC1CCNCC1 CC1COCC(C)N1 C1CNC2CCCCC2C1
        C1CC2(CCN1)OCCO2 O=S1(=O)CCNCC1 C1CCCNCC1 CC(=O)N1CCNCC1 c1ccccc1N1CCNCC1 Fc1ccccc1N1CCNCC1
        COc1ccccc1N1CCNCC1 c1ccnc(n1)N1CCNCC1 C1CCNC(C1)c1ccccc1 C1CC(CCN1)c1ccccc1 c1ccc2c(c1)CCNC2
        c1ccc2c(c1)CNC2 c1ccc2c(c1)CCN2 NCc1ccccc1 NCc1ccc(F)cc1 NCc1ccc(Cl)cc1 NCc1ccccc1Cl
        NCc1ccc(OC)cc1 NCc1ccc(cc1)C(F)(F)F NCc1ccc2OCOc2c1 NCc1ccccn1 NCc1cccnc1 NCc1ccncc1
        NCc1ccco1 NCc1cccs1 NCc1cc(C)on1 NCc1cnn(C)c1 NCc1nccs1 NCCc1ccccc1 NCCc1ccc(F)cc1
        NCCc1c[nH]c2ccccc12 NCCc1ccccn1 NCCCn1ccnc1 NCC1CCCO1 NCC1CCOCC1 NC1CCOCC1 NC1CCN(C)CC1
        NCCN1CCOCC1 NCCCN1CCCC1=O CNCc1ccccc1 CNCc1ccncc1 CNC1CCCCC1 Nc1ccccc1 Nc1ccc(F)cc1
        Nc1cccc(F)c1 Nc1ccc(Cl)cc1 Nc1cccc(Cl)c1 Nc1ccc(Br)cc1 Nc1ccccc1C Nc1ccc(C)cc1 Nc1ccc(OC)cc1
        Nc1cccc(OC)c1 Nc1ccccc1OC Nc1ccc(C#N)cc1 Nc1cccc(c1)C(F)(F)F Nc1ccc(OC(F)(F)F)cc1
        Nc1ccc(Cl)c(F)c1 Nc1ccc2OCOc2c1 Nc1ccc(cc1)N1CCOCC1 Nc1ccc(cc1)C(N)=O Nc1ccc(cc1)S(C)(=O)=O
        Nc1ccccn1 Nc1cccnc1 Nc1ccncc1 Nc1ccc(C)cn1 Nc1ncccn1 Nc1cnccn1 Nc1nccs1 Nc1cc(C)on1
        Nc1ccn(C)n1 Nc1nc2ccccc2s1 Nc1ccc2[nH]ncc2c1 Nc1ccc2ncccc2c1 Nc1cccc2cccnc12
        C[C@H](N)c1ccccc1 C[C@@H](N)c1ccccc1 C[C@@H](N)c1ccc(F)cc1 OC[C@@H](N)Cc1ccccc1
        N[C@@H]1CCCc2ccccc12 N[C@H]1CCc2ccccc12 OC[C@@H]1CCCN1 COC[C@H]1CCCN1 F[C@H]1CCNC1
        N[C@H]1CC[C@H](O)CC1""".split(),
    "sulfonyl": """
        CS(=O)(=O)Cl CCS(=O)(=O)Cl CC(C)S(=O)(=O)Cl O=S(=O)(Cl)C1CC1 O=S(=O)(Cl)Cc1ccccc1
        O=S(=O)(Cl)c1ccccc1 Cc1ccc(cc1)S(=O)(=O)Cl Fc1ccc(cc1)S(=O)(=O)Cl Clc1ccc(cc1)S(=O)(=O)Cl
        Clc1cccc(c1)S(=O)(=O)Cl Brc1ccc(cc1)S(=O)(=O)Cl COc1ccc(cc1)S(=O)(=O)Cl
        N#Cc1ccc(cc1)S(=O)(=O)Cl N#Cc1cccc(c1)S(=O)(=O)Cl FC(F)(F)c1ccc(cc1)S(=O)(=O)Cl
        FC(F)(F)c1cccc(c1)S(=O)(=O)Cl Fc1ccccc1S(=O)(=O)Cl Clc1ccccc1S(=O)(=O)Cl
        Fc1ccc(c(F)c1)S(=O)(=O)Cl CC(=O)Nc1ccc(cc1)S(=O)(=O)Cl CC(C)(C)c1ccc(cc1)S(=O)(=O)Cl
        O=S(=O)(Cl)c1cccs1 Clc1ccc(s1)S(=O)(=O)Cl O=S(=O)(Cl)c1cccnc1 Cc1noc(C)c1S(=O)(=O)Cl
        Cn1cc(cn1)S(=O)(=O)Cl Cn1cnc(c1)S(=O)(=O)Cl O=S(=O)(Cl)c1ccc2OCCOc2c1
        O=S(=O)(Cl)c1ccc2ccccc2c1 O=S(=O)(Cl)c1cccc2cccnc12""".split(),
    "carbonyl": """
        CC(C)C=O CC(C)CC=O O=CC1CC1 O=CC1CCCCC1 O=CC1CCOCC1 CC(C)=O O=C1CCC1 O=C1CCCC1 O=C1CCCCC1
        O=C1CCOCC1 O=C1COC1 O=C1CCC(F)(F)CC1 O=C1CCc2ccccc12 O=Cc1ccccc1 O=Cc1ccccc1F O=Cc1cccc(F)c1
        O=Cc1ccc(F)cc1 O=Cc1ccccc1Cl O=Cc1ccc(Cl)cc1 O=Cc1ccc(Br)cc1 O=Cc1ccc(C)cc1 O=Cc1ccc(OC)cc1
        O=Cc1cccc(OC)c1 O=Cc1ccccc1OC O=Cc1ccc(OC)c(OC)c1 O=Cc1ccc(C#N)cc1 O=Cc1cccc(C#N)c1
        O=Cc1ccc(cc1)C(F)(F)F O=Cc1ccc(OC(F)F)cc1 O=Cc1ccc(cc1)N(C)C O=Cc1ccc(F)c(F)c1
        O=Cc1ccc(Cl)c(Cl)c1 O=Cc1ccc2OCOc2c1 O=Cc1ccccn1 O=Cc1cccnc1 O=Cc1ccncc1 O=Cc1ccco1
        O=Cc1cccs1 O=Cc1ccsc1 O=Cc1cnn(C)c1 O=Cc1cncn1C O=Cc1c[nH]c2ccccc12 O=Cc1csc(C)n1
        O=Cc1c(C)noc1C O=Cc1cc2ccccc2o1 O=Cc1ccc2ncccc2c1 O=CCc1ccccc1 O=CCCc1ccccc1
        O=C/C=C/c1ccccc1 O=Cc1ccc(cc1)-n1ccnc1""".split(),
    "boronic": """
        CB(O)O OB(O)C1CC1 OB(O)C1=CCCCC1 OB(O)C1=CCOCC1 OB(O)/C=C/c1ccccc1 OB(O)c1ccccc1
        OB(O)c1ccccc1C OB(O)c1ccc(C)cc1 OB(O)c1ccccc1F OB(O)c1cccc(F)c1 OB(O)c1ccc(F)cc1
        OB(O)c1ccc(Cl)cc1 OB(O)c1cccc(Cl)c1 OB(O)c1ccccc1Cl OB(O)c1ccc(OC)cc1 OB(O)c1cccc(OC)c1
        OB(O)c1ccccc1OC OB(O)c1ccc(C#N)cc1 OB(O)c1cccc(C#N)c1 OB(O)c1ccc(cc1)C(F)(F)F
        OB(O)c1cccc(c1)C(F)(F)F OB(O)c1ccc(OC(F)(F)F)cc1 OB(O)c1ccc(F)c(F)c1 OB(O)c1ccc(F)cc1F
        OB(O)c1ccc(Cl)c(Cl)c1 OB(O)c1ccc(CO)cc1 OB(O)c1ccc(cc1)C(C)=O OB(O)c1ccc(cc1)C(N)=O
        OB(O)c1cccc(NC(C)=O)c1 OB(O)c1ccc(cc1)S(C)(=O)=O OB(O)c1ccc(cc1)N(C)C
        OB(O)c1ccc(cc1)N1CCOCC1 OB(O)c1ccc2OCOc2c1 OB(O)c1cccnc1 OB(O)c1ccncc1 OB(O)c1ccc(F)nc1
        OB(O)c1ccc(OC)nc1 OB(O)c1cncnc1 OB(O)c1cnn(C)c1 OB(O)c1ccnn1C OB(O)c1c(C)noc1C OB(O)c1ccco1
        OB(O)c1cccs1 OB(O)c1ccsc1 OB(O)c1cc2ccccc2o1 OB(O)c1cc2ccccc2s1 OB(O)c1ccc2[nH]ccc2c1
        OB(O)c1ccc2ccccc2c1 OB(O)c1cnc2ccccc2c1""".split(),
    "aryl_bromide": """
        Brc1ccccc1C(N)=O Brc1ccc(CC#N)cc1 Brc1ccc2NC(=O)Cc2c1 Brc1ccc2OCC(=O)Nc2c1
        Brc1cnc2[nH]ccc2c1 Brc1ccc2[nH]ncc2c1 Brc1cnc(N)nc1 Brc1ccc(N)nc1 Brc1cc(F)cc(c1)C#N
        Brc1ccc(cc1)C(=O)N(C)C Brc1cccc2ncccc12 Brc1ccc2C(=O)NCCc2c1 Brc1ccc(cc1)S(N)(=O)=O
        Brc1cnn(c1)C1CCOCC1 Brc1ccc2nc(C)sc2c1 Brc1ccc(nc1)C(F)(F)F Brc1csc(n1)N1CCOCC1
        Brc1ccc(cc1)[C@H](C)O""".split(),
    "heteroaryl_electrophile": """
        Ic1ncccn1 Ic1ccncn1 Ic1cnccn1 Ic1ccc(cn1)C(F)(F)F Ic1ccc(cn1)C#N Ic1cc(C#N)ccn1 Ic1ncc(F)cn1
        Ic1ncc(Cl)cn1 Ic1cc(C)ncn1 Ic1cc(C)nc(C)n1 Ic1cc(OC)ncn1 Ic1ncnc2ccccc12 Ic1ccnc2ccccc12
        Ic1cnc2ccccc2n1 Ic1ncnc2sccc12 Ic1ncnc2[nH]ccc12 Ic1ncnc2n(C)cnc12 Ic1nc2ccccc2s1
        Ic1nc2ccccc2o1 Ic1nccs1 Ic1ccc(nn1)C Ic1ccc(cc1)C#N Ic1ccccc1C#N Ic1ccc(cc1)[N+](=O)[O-]
        Ic1ccccc1[N+](=O)[O-] Ic1nc(C)c2ccccc2n1""".split(),
    "alcohol": """
        CO CCO CC(C)O CC(C)CO OCC1CC1 OC1CCCC1 OC1CCCCC1 OC1CCOCC1 OCC1CCCO1 COCCO CN(C)CCO
        OCC(F)(F)F OCc1ccccc1 OCc1ccc(F)cc1 OCc1ccc(Cl)cc1 OCc1ccc(OC)cc1 OCc1ccccn1 OCc1cccnc1
        OCc1ccco1 OCc1cccs1 OCCc1ccccc1 OCC#C OCCN1CCOCC1 OCCN1CCCC1=O OCC1CCN(C)CC1
        C[C@@H](O)c1ccccc1 O[C@H]1CCOC1""".split(),
    "phenol": """
        Oc1ccccc1 Oc1ccc(F)cc1 Oc1ccc(Cl)cc1 Oc1ccc(Br)cc1 Oc1cccc(C)c1 Oc1ccc(OC)cc1 Oc1ccc(C#N)cc1
        Oc1ccccc1C#N Oc1ccc(cc1)C(C)=O Oc1ccc(cc1)C(N)=O Oc1cccc(c1)C(F)(F)F Oc1ccc(cc1)C(C)(C)C
        Oc1ccc2OCOc2c1 Oc1cccnc1 Oc1ccc2ccccc2c1 Oc1ccc2ncccc2c1 Oc1cccc2cccnc12
        Oc1ccc2C=CC(=O)Oc2c1 Oc1ccc(cc1)-c1ccccc1 Oc1ccc(NC(C)=O)cc1 Oc1ccc(Cl)c(Cl)c1""".split(),
    "alkyl_bromide": """
        CBr CCBr CC(C)Br CC(C)CBr BrCC1CC1 BrCC1CCCCC1 BrC1CCCC1 COCCBr BrCC#N BrCC(N)=O BrCC(=O)OCC
        BrCC(=O)N(C)C BrCC(=O)Nc1ccccc1 BrCCN1CCOCC1 BrCc1ccccc1 BrCc1ccccc1F BrCc1ccc(F)cc1
        BrCc1ccc(Cl)cc1 BrCc1ccccc1Cl BrCc1ccc(C#N)cc1 BrCc1cccc(C#N)c1 BrCc1ccc(OC)cc1
        BrCc1cccc(c1)C(F)(F)F BrCc1ccc(F)c(F)c1 BrCc1ccccn1 BrCc1cccnc1 BrCc1csc(C)n1 BrCc1c(C)noc1C
        BrCCc1ccccc1 BrCCOc1ccccc1 BrCC1CCOCC1 BrCc1cccc2ccccc12""".split(),
    "alkyne": """
        C#CC1CC1 C#CCO C#CCOC C#CC(C)(C)O C#CCN1CCOCC1 C#CCN(C)C C#CCOc1ccccc1 C#CCOc1ccc(Cl)cc1
        C#Cc1ccccc1 C#Cc1ccc(F)cc1 C#Cc1ccc(OC)cc1 C#Cc1ccccn1 C#Cc1cccnc1 C#Cc1cccs1
        C#CCNC(=O)c1ccccc1 C#CCN1C(=O)c2ccccc2C1=O""".split(),
    "nitrile": """
        CC(C)C#N N#CC1CC1 N#Cc1ccccc1 N#Cc1ccc(F)cc1 N#Cc1ccc(Cl)cc1 N#Cc1cccc(Cl)c1 N#Cc1ccc(OC)cc1
        N#Cc1ccccn1 N#Cc1cccnc1 N#Cc1ccncc1 N#Cc1cccs1 N#CCc1ccccc1 N#Cc1ccc(cc1)C(F)(F)F
        N#CC1CCOCC1""".split(),
    "bromoketone": """
        BrCC(=O)c1ccccc1 BrCC(=O)c1ccc(F)cc1 BrCC(=O)c1ccc(Cl)cc1 BrCC(=O)c1ccc(OC)cc1
        BrCC(=O)c1ccc(C#N)cc1 BrCC(=O)c1cccnc1 BrCC(=O)c1cccs1 BrCC(=O)C1CC1 BrCC(=O)C(C)(C)C
        BrCC(=O)c1ccc2OCCOc2c1""".split(),
    "aminothiazole_former": "NC(N)=S CNC(N)=S CCNC(N)=S NC(=S)NC1CCCC1 NC(=S)NCc1ccccc1".split(),
    "thioamide": """
        CC(N)=S NC(=S)c1ccccc1 NC(=S)c1ccc(F)cc1 NC(=S)c1cccnc1 NC(=S)Cc1ccccc1
        NC(=S)C1CCN(C(C)=O)CC1 NC(=S)c1ccc(Cl)cc1 NC(=S)N(C)C NC(=S)Nc1ccccc1 NC(=S)Nc1ccc(OC)cc1
        NC(=S)N1CCOCC1""".split(),
    "methyl_diamine": """
        Nc1ccccc1NC Nc1cc(F)ccc1NC Nc1cc(Cl)ccc1NC Nc1cc(C#N)ccc1NC Nc1cccnc1NC Nc1cc(OC)ccc1NC
        Nc1ccccc1NC1CC1""".split(),
    "aminophenol": """
        Nc1ccccc1O Nc1cc(C)ccc1O Nc1cc(Cl)ccc1O Nc1ccc(F)cc1O Nc1cccnc1O Nc1cc(C#N)ccc1O""".split(),
    # The rest carries two handles: a core that is decorated twice.
    "bromo_acid": """
        OC(=O)c1ccc(Br)cc1 OC(=O)c1cccc(Br)c1 OC(=O)c1ccccc1Br OC(=O)c1ccc(Br)c(F)c1
        OC(=O)c1cc(F)cc(Br)c1 OC(=O)c1ccc(Br)cc1OC OC(=O)c1cc(Br)ccc1C OC(=O)Cc1ccc(Br)cc1
        OC(=O)Cc1cccc(Br)c1 OC(=O)c1ccc(Br)nc1 OC(=O)c1cncc(Br)c1 OC(=O)c1cc(Br)ccn1
        OC(=O)c1ccc(Br)s1 OC(=O)c1csc(Br)c1 OC(=O)c1ccc(Br)o1 OC(=O)c1csc(Br)n1 OC(=O)c1cc(Br)n(C)c1
        OC(=O)c1cc2cc(Br)ccc2[nH]1 OC(=O)/C=C/c1ccc(Br)cc1 OC(=O)COc1ccc(Br)cc1""".split(),
    "bromo_amine": """
        Nc1ccc(Br)cc1 Nc1cccc(Br)c1 Nc1ccc(Br)c(F)c1 Nc1ccc(Br)cc1C Nc1ccc(Br)nc1 Nc1ccc(Br)cn1
        Nc1cncc(Br)c1 NCc1ccc(Br)cc1 NCc1cccc(Br)c1 NCc1ccccc1Br NCc1ccc(Br)s1 NCCc1ccc(Br)cc1
        C1NCCc2cc(Br)ccc12 C1NCc2ccc(Br)cc12 C[C@H](N)c1ccc(Br)cc1 C1CN(CCN1)c1ccc(Br)cn1
        C1CN(CCN1)c1ccc(Br)cc1 Nc1nc2ccc(Br)cc2s1""".split(),
    "bromo_aldehyde": """
        O=Cc1ccc(Br)cc1 O=Cc1cccc(Br)c1 O=Cc1ccccc1Br O=Cc1cc(Br)ccc1F O=Cc1cc(Br)ccc1OC
        O=Cc1ccc(Br)nc1 O=Cc1cncc(Br)c1 O=Cc1ccc(Br)s1 O=Cc1csc(Br)c1 O=Cc1ccc(Br)o1""".split(),
    "bromo_sulfonyl": """
        O=S(=O)(Cl)c1ccc(Br)cc1 O=S(=O)(Cl)c1cccc(Br)c1 O=S(=O)(Cl)c1ccccc1Br O=S(=O)(Cl)c1ccc(Br)s1
        O=S(=O)(Cl)c1cncc(Br)c1 O=S(=O)(Cl)c1ccc(Br)cc1F""".split(),
    "boc_diamine": [
        smiles.replace("*", "C(=O)OC(C)(C)C")
        for smiles in """
        N1(*)CCNCC1 N1(*)CCNC(C)C1 N1(*)CCNC[C@@H]1C N1(*)CCCNCC1 N1(*)CCC(N)CC1 N1(*)CCC(CN)CC1
        N1(*)CC(N)C1 N1(*)CC[C@@H](N)C1 N1(*)CCC[C@H](N)C1 N1(*)CC2CNCC2C1 N1(*)CC2(C1)CCNCC2
        N1(*)CCC2(CC1)CCNC2 N1(*)CC2(C1)CNC2 N(*)C1CCNCC1 N(*)CC1CCNCC1 N(*)[C@@H]1CCNC1 N(*)C1CNC1
        N(*)CCN N(*)CCCN N(*)C1CCC(N)CC1 N(*)c1ccc(N)cc1 N(*)Cc1ccc(N)cc1 N(*)Cc1ccc(CN)cc1
        N(*)c1cccc(CN)c1 N1(*)CCc2cc(N)ccc2C1""".split()
    ],
    "boc_amino_acid": [
        smiles.replace("*", "C(=O)OC(C)(C)C")
        for smiles in """
        N(*)CC(=O)O N(*)CCC(=O)O N(*)[C@@H](C)C(=O)O N(*)[C@H](C)C(=O)O N(*)[C@@H](C(C)C)C(=O)O
        N(*)[C@@H](CC(C)C)C(=O)O N(*)[C@H](CC(C)C)C(=O)O N(*)[C@@H]([C@@H](C)CC)C(=O)O
        N(*)[C@@H](Cc1ccccc1)C(=O)O N(*)[C@H](Cc1ccccc1)C(=O)O N(*)[C@@H](Cc1ccc(F)cc1)C(=O)O
        N(*)[C@@H](Cc1c[nH]c2ccccc12)C(=O)O N(*)[C@@H](COC)C(=O)O N(*)[C@@H](CCSC)C(=O)O
        N(*)[C@@H](c1ccccc1)C(=O)O N(*)[C@@H](C1CCCCC1)C(=O)O N(*)C(C)(C)C(=O)O N(*)C1(CC1)C(=O)O
        N1(*)CCC[C@H]1C(=O)O N1(*)CCC[C@@H]1C(=O)O N1(*)C[C@H](O)C[C@H]1C(=O)O N1(*)CCCC[C@H]1C(=O)O
        N1(*)CCC(CC1)C(=O)O N1(*)CCCC(C1)C(=O)O N1(*)CC(C1)C(=O)O N1(*)Cc2ccccc2C[C@H]1C(=O)O
        N(*)c1ccc(cc1)C(=O)O N(*)c1cccc(c1)C(=O)O N(*)Cc1ccc(cc1)C(=O)O
        N(*)C1CCC(CC1)C(=O)O""".split()
    ],
    "bromo_electrophile": """
        Ic1nccc(Br)n1 Ic1ncc(Br)cn1 Ic1cc(Br)ncn1 Ic1ccc(Br)cn1 Ic1cc(Br)ccn1 Ic1cnc(Br)cn1
        Ic1ncnc2sc(Br)cc12 Ic1ncnc2cc(Br)ccc12 Ic1ncc(Br)c(C)n1 Ic1ncc(Br)s1
        Ic1ccc(Br)nn1""".split(),
    "hydroxy_acid": """
        OC(=O)c1ccc(O)cc1 OC(=O)c1cccc(O)c1 OC(=O)c1ccccc1O OC(=O)c1ccc(O)c(OC)c1
        OC(=O)c1ccc(O)c(F)c1 OC(=O)c1ccc(O)c(Cl)c1 OC(=O)Cc1ccc(O)cc1 OC(=O)CCc1ccc(O)cc1
        OC(=O)/C=C/c1ccc(O)cc1 OC(=O)c1ccc(O)nc1 OC(=O)c1cccnc1O""".split(),
}  # fmt: skip

AMINE = "[NX3;H1,H2;!$(N[C,S]=[O,N,S]);!$(N[!#6]):1]"
ACID = "[CX3:2](=[O:3])[OX2H1]"
CARBONYL = "[CX3;!$(C[!#6;!#1]):2]=[OX1]"
SULFONYL = "[S:2](=[O:3])(=[O:4])Cl"
HYDROXYL = "[OX2H1;!$(OC=O):3]"

# The growing molecule comes first, the block that joins it second.
REACTIONS: dict[str, str] = {
    "acylate": f"{AMINE}.{ACID}>>[N:1]-[C:2]=[O:3]",
    "amidate": f"{ACID}.{AMINE}>>[N:1]-[C:2]=[O:3]",
    "esterify": f"{ACID}.[OX2H1;!$(OC=O):4]>>[C:2](=[O:3])-[O:4]",
    "sulfonylate": f"{AMINE}.{SULFONYL}>>[N:1]-[S:2](=[O:3])=[O:4]",
    "sulfonamide": f"{SULFONYL}.{AMINE}>>[N:1]-[S:2](=[O:3])=[O:4]",
    "alkylate reductively": f"{AMINE}.{CARBONYL}>>[N:1]-[C:2]",
    "aminate reductively": f"{CARBONYL}.{AMINE}>>[N:1]-[C:2]",
    "urea": f"{AMINE}.{AMINE.replace(':1]', ':2]')}>>[N:1]-C(=O)-[N:2]",
    "carbamate": f"{AMINE}.{HYDROXYL}>>[N:1]-C(=O)-[O:3]",
    "arylate": f"{AMINE}.[c:2]I>>[N:1]-[c:2]",
    "substitute": f"[c:2]I.{AMINE}>>[N:1]-[c:2]",
    "aryloxylate": "[c:2]I.[OX2H1;$(Oc):3]>>[O:3]-[c:2]",
    "buchwald": f"[c:2]Br.{AMINE}>>[N:1]-[c:2]",
    "suzuki": "[c:1]Br.[#6:2]B(O)O>>[c:1]-[#6:2]",
    "sonogashira": "[c:1]Br.[CH1:2]#[C:3]>>[c:1]-[C:2]#[C:3]",
    "etherify": "[OX2H1;$(Oc):1].[CX4:2]Br>>[O:1]-[C:2]",
    "mitsunobu": "[OX2H1;$(Oc):1].[CX4:2][OX2H1]>>[O:1]-[C:2]",
    "click": "[CH1:1]#[C:2].[CX4:3]Br>>[cH:1]1:[c:2]:n:n:n:1-[C:3]",
    "oxadiazole": "[C:1]#[N:2].[CX3:3](=O)[OX2H1]>>[c:1]1:n:o:[c:3]:[n:2]:1",
    "thiazole": "[CX4H2:1](Br)[C:2]=O.[NH2:5][C:4]=[S:3]>>[cH:1]1:[c:2]:[n:5]:[c:4]:[s:3]:1",
    "benzimidazole": f"[NH2:1][c:4][c:5][NH1:6].{ACID}>>[n:1]1:[c:4]:[c:5]:[n:6]:[c:2]:1",
    "benzoxazole": f"[NH2:1][c:4][c:5][OH1:6].{ACID}>>[n:1]1:[c:4]:[c:5]:[o:6]:[c:2]:1",
    "deprotect": "[N:1]C(=O)OC(C)(C)C>>[N:1]",
}  # fmt: skip

# What an amine can become, and with which block.
ON_NITROGEN = [
    ("acylate", "acid"),
    ("acylate", "acid"),
    ("sulfonylate", "sulfonyl"),
    ("alkylate reductively", "carbonyl"),
    ("urea", "amine"),
    ("arylate", "heteroaryl_electrophile"),
    ("carbamate", "alcohol"),
]
ON_BROMIDE = [
    ("suzuki", "boronic"),
    ("suzuki", "boronic"),
    ("buchwald", "amine"),
    ("sonogashira", "alkyne"),
]

Step = list[tuple[str, str | None]]  # one of these (reaction, block) pairs


class Route(NamedTuple):
    """A starting block and the steps done to it; ``weight`` is its share of the candidates."""

    weight: int
    start: str
    steps: list[Step]


DEPROTECT: Step = [("deprotect", None)]
ROUTES = [
    Route(10, "amine", [ON_NITROGEN]),
    Route(1, "acid", [[("esterify", "alcohol"), ("esterify", "phenol")]]),
    Route(3, "aryl_bromide", [ON_BROMIDE]),
    Route(2, "phenol", [[("etherify", "alkyl_bromide"), ("mitsunobu", "alcohol")]]),
    Route(1, "heteroaryl_electrophile", [[("aryloxylate", "phenol")]]),
    Route(1, "alkyne", [[("click", "alkyl_bromide")]]),
    Route(2, "nitrile", [[("oxadiazole", "acid")]]),
    Route(2, "methyl_diamine", [[("benzimidazole", "acid")]]),
    Route(1, "aminophenol", [[("benzoxazole", "acid")]]),
    Route(1, "bromoketone", [[("thiazole", "thioamide")]]),
    Route(3, "bromoketone", [[("thiazole", "aminothiazole_former")], ON_NITROGEN[:3]]),
    Route(14, "bromo_acid", [[("amidate", "amine")], ON_BROMIDE]),
    Route(12, "bromo_amine", [ON_NITROGEN, ON_BROMIDE]),
    Route(6, "bromo_aldehyde", [[("aminate reductively", "amine")], ON_BROMIDE]),
    Route(4, "bromo_sulfonyl", [[("sulfonamide", "amine")], ON_BROMIDE]),
    Route(14, "boc_diamine", [ON_NITROGEN, DEPROTECT, ON_NITROGEN]),
    Route(14, "boc_amino_acid", [[("amidate", "amine")], DEPROTECT, ON_NITROGEN]),
    Route(7, "bromo_electrophile", [[("substitute", "amine")], ON_BROMIDE]),
    Route(6, "hydroxy_acid", [[("amidate", "amine")],
                              [("etherify", "alkyl_bromide"), ("mitsunobu", "alcohol")]]),
]  # fmt: skip


def react(reaction: rdChemReactions.ChemicalReaction, *reactants: Chem.Mol) -> Chem.Mol | None:
    """Return the product, or None where the reaction goes in no or in several different ways."""
    products = {}
    for (product,) in reaction.RunReactants(reactants):
        # A template may make an atom of impossible valence: then this way does not count.
        if Chem.SanitizeMol(product, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
            products[Chem.MolToSmiles(product)] = product
    # Parsed again because atoms made by a template keep properties that a clean molecule has not.
    return Chem.MolFromSmiles(next(iter(products))) if len(products) == 1 else None


def is_drug_like(molecule: Chem.Mol) -> bool:
    """Tell whether the molecule is neutral, of moderate size and neither too greasy nor too polar.

    Molar mass 150–500 g/mol, Crippen logP -2 to 6, at most 5 donors, 10 acceptors, 10 rotatable
    bonds and 6 rings, 10–36 heavy atoms, only C N O F S Cl Br, one fragment.
    """
    return (
        10 <= molecule.GetNumHeavyAtoms() <= 36
        and {atom.GetSymbol() for atom in molecule.GetAtoms()} <= {*"CNOFS", "Cl", "Br"}
        and len(Chem.GetMolFrags(molecule)) == 1
        and Chem.GetFormalCharge(molecule) == 0
        and 150 <= Descriptors.MolWt(molecule) <= 500
        and -2 <= Crippen.MolLogP(molecule) <= 6
        and Lipinski.NumHDonors(molecule) <= 5
        and Lipinski.NumHAcceptors(molecule) <= 10
        and Lipinski.NumRotatableBonds(molecule) <= 10
        and Lipinski.RingCount(molecule) <= 6
    )


class Flask:
    """The parsed blocks and reactions; ``product(i)`` depends on ``i`` alone."""

    def __init__(self) -> None:
        self.blocks = {
            name: [Chem.MolFromSmiles(smiles) for smiles in block] for name, block in BLOCKS.items()
        }
        self.reactions = {}
        with rdBase.BlockLogs():  # it remarks on every atom that a reaction loses
            for name, smarts in REACTIONS.items():
                self.reactions[name] = rdChemReactions.ReactionFromSmarts(smarts)
                self.reactions[name].Initialize()
        self.routes = [route for route in ROUTES for _ in range(route.weight)]

    def product(self, index: int) -> str | None:
        """Return the canonical SMILES of a candidate, or None where it does not come to be."""
        dice = int.from_bytes(hashlib.sha256(f"{KEY}:{index}".encode()).digest())

        def roll(sides: int) -> int:
            nonlocal dice
            dice, face = divmod(dice, sides)
            return face

        def take(block: str) -> Chem.Mol:
            return self.blocks[block][roll(len(self.blocks[block]))]

        route = self.routes[roll(len(self.routes))]
        molecule = take(route.start)
        for step in route.steps:
            name, block = step[roll(len(step))]
            partners = [] if block is None else [take(block)]
            molecule = react(self.reactions[name], molecule, *partners)
            if molecule is None:
                return None
        return Chem.MolToSmiles(molecule) if is_drug_like(molecule) else None


def enumerate_smiles(limit: int | None = NUM_MOLECULES) -> Iterator[str]:
    """Yield the first ``limit`` distinct molecules by candidate number; None never ends."""
    flask = Flask()
    seen: set[str] = set()
    for index in count():
        if limit is not None and len(seen) >= limit:
            return
        smiles = flask.product(index)
        if smiles is not None and smiles not in seen:
            seen.add(smiles)
            yield smiles


def place(smiles: str) -> bytes:
    """Return the key that sorts the file."""
    return hashlib.sha256(f"{KEY}:{smiles}".encode()).digest()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Make the example molecules.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    molecules = []
    for smiles in enumerate_smiles():
        molecules.append(smiles)
        if len(molecules) % 2_000 == 0:
            print(f"{len(molecules):6d} of {NUM_MOLECULES} molecules", file=sys.stderr)
    rows = ["smiles", *sorted(molecules, key=place)]
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:
        zipped.write("".join(f"{row}\n" for row in rows).encode())
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
