"""What the demo's samples say: short true captions, written for it, of the photographs in scikit-image's wheel.

A language is its questions and one caption per photograph; captions start with a noun phrase and end with the
language's own full stop, so that they can be joined.
"""

from __future__ import annotations

from dataclasses import dataclass

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
"""Files of skimage/data, in the order of every language's captions."""

PAIR = ("motorcycle_left.png", "motorcycle_right.png")
"""One motorcycle, photographed from two places side by side."""


@dataclass(frozen=True)
class Language:
    """One language of the demo.

    `describe` asks about one picture and `compare` about several; `label` introduces the n-th picture ({n}); `recall`
    asks for the caption of {file} without a picture.
    """

    code: str
    describe: str
    compare: str
    label: str
    recall: str
    captions: tuple[str, ...]


LANGUAGES = (
    Language(
        "en",
        "What is in this picture?",
        "Describe the pictures one after the other.",
        "Picture {n}:",
        "What does the photograph {file} show?",
        (
            "An astronaut in an orange suit with a white helmet beside her.",
            "A wall of narrow bricks in rows.",
            "A man in a dark coat looks through a camera on a tripod.",
            "A tabby cat looks to the side.",
            "A cup of coffee on a red saucer with a spoon.",
            "Twenty-four old coins in four rows.",
            "A patch of grass seen from above.",
            "A bed of gravel, stone beside stone.",
            "Many distant galaxies in a black sky.",
            "Stained tissue under a microscope.",
            "The grey surface of the moon with small craters.",
            "A red motorcycle in front of a garage.",
            "A printed page about the segmentation of images.",
            "The back of an eye with its red vessels.",
            "A white rocket on its launch pad at dusk.",
            "Handwritten formulas on a sheet of paper.",
        ),
    ),
    Language(
        "de",
        "Was ist auf diesem Bild?",
        "Beschreibe die Bilder nacheinander.",
        "Bild {n}:",
        "Was zeigt das Foto {file}?",
        (
            "Eine Astronautin im orangefarbenen Anzug, neben ihr ein weißer Helm.",
            "Eine Mauer aus schmalen Ziegeln in Reihen.",
            "Ein Mann im dunklen Mantel blickt durch eine Kamera auf einem Stativ.",
            "Eine getigerte Katze schaut zur Seite.",
            "Eine Tasse Kaffee auf roter Untertasse mit einem Löffel.",
            "Vierundzwanzig alte Münzen in vier Reihen.",
            "Ein Stück Rasen, von oben gesehen.",
            "Ein Bett aus Kies, Stein an Stein.",
            "Viele ferne Galaxien am schwarzen Himmel.",
            "Gefärbtes Gewebe unter dem Mikroskop.",
            "Die graue Oberfläche des Mondes mit kleinen Kratern.",
            "Ein rotes Motorrad vor einer Garage.",
            "Eine gedruckte Seite über das Zerlegen von Bildern.",
            "Der Hintergrund eines Auges mit seinen roten Gefäßen.",
            "Eine weiße Rakete auf der Startrampe in der Dämmerung.",
            "Handgeschriebene Formeln auf einem Blatt Papier.",
        ),
    ),
    Language(
        "es",
        "¿Qué hay en esta imagen?",
        "Describe las imágenes una tras otra.",
        "Imagen {n}:",
        "¿Qué muestra la foto {file}?",
        (
            "Una astronauta con traje naranja y un casco blanco a su lado.",
            "Un muro de ladrillos estrechos en hileras.",
            "Un hombre de abrigo oscuro mira por una cámara sobre un trípode.",
            "Un gato atigrado mira hacia un lado.",
            "Una taza de café sobre un platillo rojo con una cuchara.",
            "Veinticuatro monedas antiguas en cuatro filas.",
            "Un trozo de césped visto desde arriba.",
            "Un lecho de grava, piedra junto a piedra.",
            "Muchas galaxias lejanas en un cielo negro.",
            "Tejido teñido bajo el microscopio.",
            "La superficie gris de la luna con pequeños cráteres.",
            "Una motocicleta roja delante de un garaje.",
            "Una página impresa sobre la segmentación de imágenes.",
            "El fondo de un ojo con sus vasos rojos.",
            "Un cohete blanco en su plataforma de lanzamiento al anochecer.",
            "Fórmulas escritas a mano en una hoja de papel.",
        ),
    ),
    Language(
        "zh",
        "这张图片里有什么?",
        "请依次描述这些图片。",
        "图{n}:",
        "照片 {file} 拍的是什么?",
        (
            "一位身穿橙色航天服的女宇航员,身旁放着白色头盔。",
            "一面由窄砖一排排砌成的墙。",
            "一个穿深色大衣的男人正透过三脚架上的相机看。",
            "一只虎斑猫看向一边。",
            "红色碟子上的一杯咖啡和一把勺子。",
            "排成四行的二十四枚古钱币。",
            "从上方看到的一片草地。",
            "一片碎石,一颗挨着一颗。",
            "黑色天空中许多遥远的星系。",
            "显微镜下染色的组织。",
            "有小陨石坑的灰色月球表面。",
            "车库前的一辆红色摩托车。",
            "一页关于图像分割的印刷文字。",
            "眼底和它的红色血管。",
            "黄昏时发射台上的一枚白色火箭。",
            "一张纸上的手写公式。",
        ),
    ),
    Language(
        "ar",
        "ماذا يوجد في هذه الصورة؟",
        "صف الصور واحدة تلو الأخرى.",
        "الصورة {n}:",
        "ماذا تُظهر الصورة {file}؟",
        (
            "رائدة فضاء ببدلة برتقالية وبجانبها خوذة بيضاء.",
            "جدار من الطوب الضيق في صفوف.",
            "رجل بمعطف داكن ينظر عبر كاميرا على حامل ثلاثي.",
            "قطة مخططة تنظر إلى الجانب.",
            "فنجان قهوة على صحن أحمر مع ملعقة.",
            "أربع وعشرون قطعة نقود قديمة في أربعة صفوف.",
            "رقعة من العشب من الأعلى.",
            "فراش من الحصى، حجر بجانب حجر.",
            "مجرات بعيدة كثيرة في سماء سوداء.",
            "نسيج مصبوغ تحت المجهر.",
            "سطح القمر الرمادي وفيه فوهات صغيرة.",
            "دراجة نارية حمراء أمام مرآب.",
            "صفحة مطبوعة عن تقسيم الصور.",
            "قاع العين بأوعيته الحمراء.",
            "صاروخ أبيض على منصة الإطلاق عند الغسق.",
            "معادلات مكتوبة باليد على ورقة.",
        ),
    ),
    Language(
        "hi",
        "इस तस्वीर में क्या है?",
        "तस्वीरों का एक-एक करके वर्णन करें।",
        "तस्वीर {n}:",
        "फ़ोटो {file} में क्या दिखता है?",
        (
            "नारंगी सूट में एक महिला अंतरिक्ष यात्री और पास में सफ़ेद हेलमेट।",
            "पतली ईंटों की कतारों वाली दीवार।",
            "गहरे कोट में एक आदमी तिपाई पर रखे कैमरे से देख रहा है।",
            "एक धारीदार बिल्ली एक ओर देख रही है।",
            "लाल तश्तरी पर कॉफ़ी का प्याला और एक चम्मच।",
            "चार कतारों में चौबीस पुराने सिक्के।",
            "ऊपर से दिखती घास।",
            "बजरी की परत, पत्थर से लगा पत्थर।",
            "काले आकाश में बहुत सी दूर की आकाशगंगाएँ।",
            "सूक्ष्मदर्शी के नीचे रंगा हुआ ऊतक।",
            "छोटे गड्ढों वाली चाँद की धूसर सतह।",
            "गैराज के सामने एक लाल मोटरसाइकिल।",
            "चित्रों के विभाजन के बारे में एक छपा हुआ पन्ना।",
            "आँख का पिछला भाग और उसकी लाल नसें।",
            "शाम के समय प्रक्षेपण मंच पर एक सफ़ेद रॉकेट।",
            "काग़ज़ पर हाथ से लिखे सूत्र।",
        ),
    ),
)

DETAILS = (
    ("astronaut.png", "What colour is the suit?", "Orange."),
    ("brick.png", "Are the bricks wide or narrow?", "Narrow."),
    ("camera.png", "What does the camera stand on?", "A tripod."),
    ("chelsea.png", "Which animal is it?", "A cat."),
    ("coffee.png", "What lies on the saucer?", "A spoon."),
    ("coins.png", "How many coins are there?", "Twenty-four."),
    ("grass.png", "What grows here?", "Grass."),
    ("gravel.png", "What covers the ground?", "Gravel."),
    ("hubble_deep_field.jpg", "What are the bright spots?", "Mostly galaxies."),
    ("moon.png", "Is this the earth or the moon?", "The moon."),
    ("motorcycle_left.png", "How many wheels does it have?", "Two."),
    ("page.png", "Is the text printed or written by hand?", "Printed."),
    ("retina.jpg", "Which part of the body is it?", "An eye."),
    ("rocket.jpg", "What stands on the launch pad?", "A rocket."),
    ("text.png", "Is the text printed or written by hand?", "Written by hand."),
)
"""(photograph, question, answer): second turns in English."""

SAME_MOTORCYCLE = (
    "<|image|><|image|>\nDo both pictures show the same motorcycle?",
    "Yes, once from the left and once from the right.",
)

PROMPTS = (
    "Cut to 2 rows 3 columns with a global view\nsubimg(0,0)<|image|> subimg(0,1)<|image|> subimg(0,2)<|image|>\n"
    "subimg(1,0)<|image|> subimg(1,1)<|image|> subimg(1,2)<|image|>\nglobal_view<|image|>",
    "<|start_cut|>3*2\n<|image|> <|image|>\n<|image|> <|image|>\n<|image|> <|image|>\n<|image|><|end_cut|>",
    "system\n",
    "\nuser\n",
    "\nassistant\n",
)
"""What the layouts write around a sample: the tokenizer learns it too, so that it costs few tokens."""
