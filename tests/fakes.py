"""Tiny fakes of real data sets, laid out file by file as CoOp's instructions and the data sets' own pages say; written
without a look at the library's table."""
import json
from io import BytesIO

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (24, 18)  # width, height of every fake image
# images of each of five classes: fewer than 16 shots, exactly 16, and more
COUNTS = {"train": (18, 20, 3, 17, 16), "val": (5, 2, 6, 4, 7), "test": (3, 2, 4, 1, 2)}


def picture(i, suffix):
    "Bytes of a little image that differs from its neighbours"
    pixels, out = np.zeros((SIZE[1], SIZE[0], 3), np.uint8), BytesIO()
    pixels[..., i % 3] = 40 + 37 * i % 200
    Image.fromarray(pixels).save(out, {"jpg": "JPEG", "JPEG": "JPEG", "png": "PNG"}[suffix])
    return out.getvalue()


def object_mask(i):
    "The mask behind every fake annotation, [18, 24] bool"
    mask = np.zeros(SIZE[::-1], bool)
    mask[3:12 + i % 4, 5:17] = True
    return mask


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# name -> (folder, split file, folder of images, path of image i of class c, classes)
SPLIT_FILES = {
    "caltech101": ("caltech-101", "split_zhou_Caltech101.json", "101_ObjectCategories", "{c}/image_{i:04d}.jpg",
                   ("face", "leopard", "accordion", "airplane", "sunflower")),
    "oxford_pets": ("oxford_pets", "split_zhou_OxfordPets.json", "images", "{c}_{i}.jpg",
                    ("abyssinian", "american_bulldog", "beagle", "great_pyrenees", "pug")),
    "stanford_cars": ("stanford_cars", "split_zhou_StanfordCars.json", "", "cars_train/{n:05d}.jpg",
                      ("2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2012 Audi A5 Coupe", "2012 BMW X6 SUV",
                       "2012 smart fortwo Convertible")),
    "oxford_flowers": ("oxford_flowers", "split_zhou_OxfordFlowers.json", "jpg", "image_{n:05d}.jpg",
                       ("pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "wild pansy")),
    "food101": ("food-101", "split_zhou_Food101.json", "images", "{c}/{n}.jpg",
                ("apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare")),
    "sun397": ("sun397", "split_zhou_SUN397.json", "SUN397", "a/{c}/sun_{n}.jpg",
               ("abbey", "airplane_cabin", "indoor apse", "outdoor athletic_field", "zen_garden")),
    "dtd": ("dtd", "split_zhou_DescribableTextures.json", "images", "{c}/{c}_{i:04d}.jpg",
            ("banded", "blotchy", "polka-dotted", "waffled", "zigzagged")),
    "eurosat": ("eurosat", "split_zhou_EuroSAT.json", "2750", "{c}/{n}.jpg",
                ("Annual Crop Land", "Forest", "Highway or Road", "River", "Sea or Lake")),
    "ucf101": ("ucf101", "split_zhou_UCF101.json", "UCF-101-midframes", "{c}/v_{c}_g{n}.jpg",
               ("Apply_Eye_Makeup", "Archery", "Baby_Crawling", "Balance_Beam", "Yo_Yo")),
}
# a name that occurs twice, as in CLIP's list
WNIDS = {"n01440764": "tench", "n01443537": "goldfish", "n03773504": "missile", "n04008634": "missile",
         "n04355933": "sunglasses"}
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")


def shuffled(counts, seed):
    "(class, number within the class), classes interleaved: a real split file is not sorted by class either"
    items = [(c, i) for c, n in enumerate(counts) for i in range(1, n + 1)]
    return [items[k] for k in np.random.default_rng(seed).permutation(len(items))]


def with_split_file(name, root):
    folder, file, images, pattern, classes = SPLIT_FILES[name]
    truth, n = {}, 0
    for part, counts in COUNTS.items():
        truth[part] = []
        for c, i in shuffled(counts, len(part)):
            n += 1
            path = pattern.format(c=classes[c].replace(" ", "_"), i=i + 100 * list(COUNTS).index(part), n=n)
            put(root / folder / images / path, picture(n, "jpg"))
            truth[part].append((root / folder / images / path, c, classes[c]))
    put(root / folder / file, json.dumps({part: [[p.relative_to(root / folder / images).as_posix(), c, k]
                                                 for p, c, k in items] for part, items in truth.items()}))
    return truth


def fgvc_aircraft(root):
    folder, variants = root / "fgvc_aircraft", ("707-320", "727-200", "A310", "F-16A/B", "MD-80")
    put(folder / "variants.txt", "\n".join(variants) + "\n")
    truth, n = {}, 34000
    for part, counts in COUNTS.items():
        truth[part] = []
        for c, _ in shuffled(counts, len(part)):
            n += 1
            put(folder / "images" / f"0{n}.jpg", picture(n, "jpg"))
            truth[part].append((folder / "images" / f"0{n}.jpg", c, variants[c]))
        put(folder / f"images_variant_{part}.txt", "".join(f"{p.stem} {k}\n" for p, _, k in truth[part]))
    return truth


def class_folders(base, folders, names, counts, first=0):
    "Items of a folder per class, in sorted order"
    truth = []
    for label, (folder, name, count) in enumerate(zip(folders, names, counts)):
        for i in range(count):
            put(base / folder / f"{folder}_{i:03d}.JPEG", picture(first + i, "JPEG"))
            truth.append((base / folder / f"{folder}_{i:03d}.JPEG", label, name))
    return truth


def classnames(folder): put(folder / "classnames.txt", "".join(f"{k} {v}\n" for k, v in WNIDS.items()))


def imagenet(root):
    classnames(root / "imagenet")
    part = lambda name, counts: class_folders(root / "imagenet" / "images" / name, WNIDS, WNIDS.values(), counts)
    return {"train": part("train", COUNTS["train"]), "val": [], "test": part("val", COUNTS["test"])}


def variant(folder, images, take):
    "ImageNet-A, -R and -Sketch: some of the classes, counted from 0"
    def write(root):
        classnames(root / folder)
        keys = list(WNIDS)[:take]
        return {"train": [], "val": [], "test": class_folders(root / folder / images, keys, [WNIDS[k] for k in keys],
                                                              COUNTS["test"])}
    return write


def imagenetv2(root):
    classnames(root / "imagenetv2")
    base = root / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    return {"train": [], "val": [], "test": class_folders(base, [str(i) for i in range(5)], WNIDS.values(),
                                                          COUNTS["test"])}


def bird_images(folder):
    "(number, class, relative path) of nine birds, three of each kind, with segmentations of five annotators"
    for n in range(1, 10):
        bird = BIRDS[(n - 1) // 3]
        path = f"{bird}/{bird[4:]}_{n:04d}_{n * 77}.jpg"
        put(folder / "images" / path, picture(n, "jpg"))
        votes = np.where(object_mask(n), 153, 51).astype(np.uint8)  # three of five against one of five
        out = BytesIO()
        Image.fromarray(votes).save(out, "PNG")
        put(folder / "segmentations" / path.replace(".jpg", ".png"), out.getvalue())
        yield n, (n - 1) // 3, path


def cub200(root):
    folder, birds = root / "CUB_200_2011", list(bird_images(root / "CUB_200_2011"))
    put(folder / "images.txt", "".join(f"{n} {p}\n" for n, _, p in birds))
    put(folder / "image_class_labels.txt", "".join(f"{n} {c + 1}\n" for n, c, _ in birds))
    put(folder / "train_test_split.txt", "".join(f"{n} {int(n % 3 != 0)}\n" for n, _, _ in birds))
    put(folder / "classes.txt", "".join(f"{i} {b}\n" for i, b in enumerate(BIRDS, 1)))
    item = lambda c, p: (folder / "images" / p, c, BIRDS[c][4:].replace("_", " "))
    return {"train": [item(c, p) for n, c, p in birds if n % 3], "val": [],
            "test": [item(c, p) for n, c, p in birds if n % 3 == 0]}


def waterbirds(root):
    folder, rows, truth = root / "waterbird_complete95_forest2water2", [], {"train": [], "val": [], "test": []}
    for n, c, path in bird_images(root / "CUB_200_2011"):
        for split, part in enumerate(truth):
            mine = path.replace(".jpg", f"_{part}.jpg") if split else path
            y, place = int(c > 0), int((n + split) % 2)
            put(folder / mine, picture(n + split, "jpg"))
            rows.append(f"{len(rows)},{mine},{y},{split},{place},/o/ocean/{n}.jpg")
            truth[part].append((folder / mine, y, ("landbird", "waterbird")[y]))
    put(folder / "metadata.csv", "img_id,img_filename,y,split,place,place_filename\n" + "\n".join(rows))
    return truth


def numbered(numbers):
    "Bytes of a mask of ImageNet-S: the numbers of classes as red + 256 * green"
    out = BytesIO()
    Image.fromarray(np.dstack([numbers % 256, numbers // 256, 0 * numbers]).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def imagenet_s(size, names=None):
    "Writer of an ImageNet-S; a column of every mask is another class, and another was left undecided"
    names = dict(list(WNIDS.items())[:3]) if names is None else names

    def write(root):
        base, truth = root / "imagenet-s", {"train": [], "val": [], "test": []}
        put(base / "classnames.txt", "".join(f"{k} {v}\n" for k, v in names.items()))
        put(base / f"ImageNetS_categories_im{size}.txt", "\n".join(reversed(names)))  # the published ones are sorted
        for part, folder in (("train", "train-semi"), ("test", "validation")):
            for label, (key, name) in enumerate(sorted(names.items())):
                for i in range(1 if len(names) > 9 else COUNTS[part][label]):
                    path, numbers = f"{key}/{key}_{i:02d}", np.where(object_mask(i), label + 1, 0)
                    numbers[:, 0], numbers[:, 10] = label % len(names) + 2, 1000
                    put(base / f"ImageNetS{size}" / folder / f"{path}.JPEG", picture(i, "JPEG"))
                    put(base / f"ImageNetS{size}" / f"{folder}-segmentation" / f"{path}.png", numbered(numbers))
                    truth[part].append((base / f"ImageNetS{size}" / folder / f"{path}.JPEG", label, name))
        return truth

    return write


IN9 = ("00_dog", "01_bird", "02_wheeled vehicle", "03_reptile", "04_carnivore", "05_insect", "06_musical instrument",
       "07_primate", "08_fish")


def imagenet9(root):
    "Four originals of each of nine classes with their foregrounds, and these on other originals"
    base, truth = root / "bg_challenge", {"train": [], "val": [], "test": [], "mixed_same": [], "shifted": []}
    source = lambda label, i: f"n{2000000 + label:08d}_{i:05d}"
    for label, folder in enumerate(IN9):
        for i in range(4):
            other = source((label + i) % 9, (i + 1) % 4)
            mixed = f"fg_{source(label, i)}_bg_{source(label, (i + 1) % 4)}", f"fg_{source(label, i)}_bg_{other}"
            for part, variant, name in (("test", "original", source(label, i)), ("mixed_same", "mixed_same", mixed[0]),
                                        ("shifted", "mixed_rand", mixed[1])):
                path = base / variant / "val" / folder / f"{name}.JPEG"
                put(path, picture(label + i, "JPEG"))
                truth[part].append((path, label, folder[3:]))
            out = BytesIO()
            np.save(out, object_mask(label + i).astype(np.uint8))
            put(base / "fg_mask" / "val" / folder / f"{source(label, i)}.npy", out.getvalue())
    return truth


COUNTERANIMAL = {"9 ostrich": ("sand", "grass"), "10 brambling": ("green", "sky"), "296 ice bear": ("snow", "grass")}


def counteranimal(root):
    base, truth = root / "LAION-final", {"train": [], "val": [], "test": [], "shifted": []}
    for label, (folder, places) in enumerate(COUNTERANIMAL.items()):
        for part, kind, place, n in (("test", "common", places[0], 5), ("shifted", "counter", places[1], 3)):
            for i in range(n):
                path = base / folder / f"{kind}-{place}" / f"{1000 * label + 10 * n + i}.jpg"
                put(path, picture(label + i, "jpg"))
                truth[part].append((path, label, folder.split(" ", 1)[1]))
    put(base / "imagenet_names.txt", "")
    return truth


FAKES = {name: lambda root, name=name: with_split_file(name, root) for name in SPLIT_FILES} | {
    "fgvc_aircraft": fgvc_aircraft, "imagenet": imagenet, "imagenetv2": imagenetv2,
    "imagenet_sketch": variant("imagenet-sketch", "images", 5),
    "imagenet_a": variant("imagenet-adversarial", "imagenet-a", 3),
    "imagenet_r": variant("imagenet-rendition", "imagenet-r", 4), "cub200": cub200, "waterbirds": waterbirds,
    **{f"imagenet_s{size}": imagenet_s(size) for size in (50, 300, 919)}, "imagenet9": imagenet9,
    "counteranimal": counteranimal}
NEEDED = {name: [f"{folder}/{file}", f"{folder}/{images}".rstrip("/")]
          for name, (folder, file, images, _, _) in SPLIT_FILES.items()} | {
    "fgvc_aircraft": [f"fgvc_aircraft/{f}" for f in ("variants.txt", "images_variant_train.txt",
                                                     "images_variant_val.txt", "images_variant_test.txt", "images")],
    "imagenet": ["imagenet/classnames.txt", "imagenet/images/train", "imagenet/images/val"],
    "imagenetv2": ["imagenetv2/classnames.txt", "imagenetv2/imagenetv2-matched-frequency-format-val"],
    "imagenet_sketch": ["imagenet-sketch/classnames.txt", "imagenet-sketch/images"],
    "imagenet_a": ["imagenet-adversarial/classnames.txt", "imagenet-adversarial/imagenet-a"],
    "imagenet_r": ["imagenet-rendition/classnames.txt", "imagenet-rendition/imagenet-r"],
    "cub200": [f"CUB_200_2011/{f}" for f in ("images.txt", "image_class_labels.txt", "train_test_split.txt",
                                             "classes.txt", "images")],
    "waterbirds": ["waterbird_complete95_forest2water2/metadata.csv"],
    **{f"imagenet_s{size}": [f"imagenet-s/{f}" for f in (
        "classnames.txt", f"ImageNetS_categories_im{size}.txt", f"ImageNetS{size}/train-semi",
        f"ImageNetS{size}/validation")] for size in (50, 300, 919)},
    "imagenet9": [f"bg_challenge/{f}/val" for f in ("original", "mixed_same", "mixed_rand")],
    "counteranimal": ["LAION-final"]}


# -- annotations of masks: (items, root) -> files beside the images -----------

def pets_trimaps(items, root):
    for k, (path, _, _) in enumerate(items):
        trimap, out = np.where(object_mask(k), 1, 2).astype(np.uint8), BytesIO()
        trimap[:, 20] = 3  # the border that was not decided
        Image.fromarray(trimap).save(out, "PNG")
        put(root / "oxford_pets" / "annotations" / "trimaps" / f"{path.stem}.png", out.getvalue())


def flowers_segmentations(items, root):
    for k, (path, _, _) in enumerate(items):
        pixels, out = np.full((SIZE[1], SIZE[0], 3), (0, 0, 254), np.uint8), BytesIO()
        pixels[object_mask(k)] = (230, 120, 200)
        Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
        put(root / "oxford_flowers" / "segmim" / f"segmim_{path.stem.removeprefix('image_')}.jpg", out.getvalue())


def caltech_outlines(items, root):
    for k, (path, _, _) in enumerate(items):
        rows, columns = np.where(object_mask(k))
        top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
        # counted from the corner of the box
        corners = np.array([[0, right - left, right - left, 0], [0, 0, bottom - top, bottom - top]], float)
        folder, number = root / "caltech-101" / "Annotations" / path.parent.name, path.stem.removeprefix("image_")
        target = folder / f"annotation_{number}.mat"
        target.parent.mkdir(parents=True, exist_ok=True)
        savemat(target, {"box_coord": np.array([[top + 1, bottom + 1, left + 1, right + 1]]), "obj_contour": corners})


ANNOTATIONS = {"oxford_pets": pets_trimaps, "oxford_flowers": flowers_segmentations, "caltech101": caltech_outlines}
