"""The nodes' own words in Chinese; English stands in the nodes, settings carry both themselves.

What nodes write on sheets and say while they run stands here in both languages.
"""

from typing import Literal

from ..core.config import Text

Language = Literal["en", "zh"]

DESCRIPTIONS = {
    "LoadDataset": (
        "读取图片与标注的文件夹，并显示训练时的样子：分桶、裁切、标注、步数。形如 10_名称 的"
        "子文件夹表示重复次数。"
    ),
    "CaptionDataset": (
        "用标注器或 BLIP 写标注，或仅用规则修改标注。试运行只显示将改变什么。除非您要求，否则"
        "不下载任何东西。"
    ),
    "PrepareDataset": "按另一分辨率或分桶方式重新编排数据集，显示新的裁切与步数。图片本身不变。",
    "TrainLoRA": (
        "在图中的 MODEL、CLIP、VAE 上训练 LoRA，权重不复制第二份。取消会保留已训练的内容，再"
        "次执行即可继续。相同图片上的相同设置绝不训练两次。"
    ),
    "SaveLoRA": (
        "把 LoRA 写入 ComfyUI 的 lora 文件夹，再读回并校验。不覆盖任何文件。按 R 刷新加载器列表。"
    ),
    "BlockWeightPreview": (
        "把 LoRA 在不同分层权重下的画面并排绘出，与 KSampler 所绘相同，无需保存或重新加载。输"
        "出的 MODEL 与 CLIP 带有选定的权重。"
    ),
    "GridAxes": (
        "分层权重预览的坐标轴：x 横向，y 纵向，z 逐页。没有坐标轴改变的，按预览节点自身的控件。"
    ),
    "LoadLoRAForTest": "打开任意工具的 LoRA 文件，供分层预览、分析与固化使用。",
    "ApplyBlockWeights": "带分层权重的 LoraLoader，用于内存中的 LoRA。",
    "AnalyzeBlocks": "测量 LoRA 每一层改变了多少，画成图表。",
    "BakeLoRA": "把分层权重与强度固化进 LoRA，在任何程序中以强度 1 使用即得到同样画面。",
    "AnalyzeBlocksInPictures": (
        "为 LoRA 的每一层各画一张图，只有该层取另一数值，并以图表显示画面改变了多少；有遮罩时分别"
        "给出遮罩内外。"
    ),
    "SuggestBlockWeights": (
        "搜索分层权重：遮罩之外尽量保留 LoRA 的改变，遮罩之内尽量少改变，例如保留画风而不改变脸；"
        "再用其他种子画图证明。"
    ),
    "MergeLoRAs": (
        "把最多四个 LoRA 各按自己的强度与分层权重合成一个，以强度 1 使用即得到它们共同的画面。"
    ),
    "ResizeLoRA": "写出更小的 LoRA：每一层保留其改变中最强的部分，数量由百分比与秩决定。",
    "FoldLoRA": ("在所选底模旁写出并入了 LoRA 的新底模。以 fp32 求和。按 R 刷新加载器列表。"),
    "ExtractLoRA": "写出把一个底模变成另一个的 LoRA，以其秩所及为限。",
    "BlockWeightTag": (
        "把 LoRA 连同强度与分层权重写成文字：WebUI 与 Forge 的 lora-block-weight 标签、其旧写法，"
        "或 Inspire 节点的向量。"
    ),
    "LoadRecipe": (
        "打开配方（.json）。其全部设置作为选项输出，优先于 TrainLoRA 自身的控件；图片作为数据"
        "集输出。"
    ),
    "SaveRecipe": "把数据集与选项写成配方（.json），供命令行或网页使用。",
    "ResumeTraining": "列出中断的训练；把两个输出接到使用同一模型的 TrainLoRA，即从停下处继续。",
    "CaptionerOptions": "CaptionDataset 的阈值与长度设置。",
    "OptionsNode": "TrainLoRA 的更多设置；选项节点可以串联。",
}

LABELS = {
    "model": Text("model", "模型"),
    "clip": Text("clip", "CLIP"),
    "vae": Text("vae", "VAE"),
    "lora": Text("lora", "LoRA"),
    "dataset": Text("dataset", "数据集"),
    "options": Text("options", "选项"),
    "folder": Text("folder", "文件夹"),
    "start": Text("start", "开始方式"),
    "incoming_patches": Text("incoming patches", "传入的补丁"),
    "name": Text("name", "名称"),
    "file": Text("file", "文件"),
    "precision": Text("precision", "精度"),
    "metadata": Text("metadata", "元数据"),
    "block_weights": Text("block weights", "分层权重"),
    "trigger": Text("trigger", "触发词"),
    "comment": Text("comment", "备注"),
    "strength_model": Text("strength model", "模型强度"),
    "strength_clip": Text("strength clip", "CLIP 强度"),
    "prompts": Text("prompts", "提示词"),
    "negative_prompt": Text("negative prompt", "反向提示词"),
    "presets": Text("presets", "预设"),
    "chosen": Text("chosen", "选定的权重"),
    "preview_seed": Text("preview seed", "预览种子"),
    "steps": Text("steps", "步数"),
    "cfg": Text("cfg", "CFG"),
    "sampler_name": Text("sampler", "采样器"),
    "scheduler": Text("scheduler", "调度器"),
    "width": Text("width", "宽度"),
    "height": Text("height", "高度"),
    "recipe": Text("recipe", "配方"),
    "training": Text("training", "训练"),
    "samples": Text("samples", "样本数"),
    "axes": Text("axes", "坐标轴"),
    "x_axis": Text("x axis", "X 轴"),
    "x": Text("x", "X 条目"),
    "y_axis": Text("y axis", "Y 轴"),
    "y": Text("y", "Y 条目"),
    "z_axis": Text("z axis", "Z 轴"),
    "z": Text("z", "Z 条目"),
    "value": Text("value", "数值"),
    "compare": Text("compare", "比较"),
    "language": Text("language", "语言"),
    "mask": Text("mask", "遮罩"),
    "keep_outside": Text("keep outside %", "遮罩外保留 %"),
    "keep_inside": Text("keep inside %", "遮罩内保留 %"),
    "seeds": Text("seeds", "种子数"),
    "rank": Text("rank", "秩"),
    "keep_percent": Text("keep %", "保留 %"),
    "checkpoint": Text("checkpoint", "底模"),
    "tuned": Text("tuned checkpoint", "微调后的底模"),
    "base": Text("base checkpoint", "原底模"),
    "strength": Text("strength", "强度"),
    "dialect": Text("dialect", "写法"),
    **{f"lora_{n}": Text(f"LoRA {n}", f"LoRA {n}") for n in range(1, 5)},
    **{f"strength_{n}": Text(f"strength {n}", f"强度 {n}") for n in range(1, 5)},
    **{f"block_weights_{n}": Text(f"block weights {n}", f"分层权重 {n}") for n in range(1, 5)},
}

HELP = {
    "model": "Stable Diffusion 1.x、2.x 或 XL。",
    "clip": "来自同一模型文件。",
    "vae": "来自同一模型文件，或与其匹配。",
    "lora": "来自 TrainLoRA 或 LoadLoRAForTest。",
    "dataset": "来自 LoadDataset 或 CaptionDataset。",
    "options": "来自选项节点的更多设置，优先于本节点。",
    "folder": "ComfyUI 的 input 下的文件夹，或允许的根目录下的绝对路径。",
    "start": "resume 从相同设置的中断处继续，已完成的直接取其文件；restart 重新训练。",
    "incoming_patches": "传入的 MODEL 与 CLIP 所带的 LoRA：在其之上训练，或训练时排除。",
    "name": "文件名，不含文件夹。若已存在同名文件则加上序号。",
    "file": "来自 ComfyUI 的 lora 文件夹。",
    "precision": "fp16 为各程序通用。",
    "metadata": "把训练设置写入文件，可从中读回配方。关闭则只写加载所需内容。",
    "block_weights": "预设名（如 NOFACE）、向量，或范围（如 IN04-IN08=0.5）。",
    "trigger": "唤出主体的词。",
    "comment": "写入元数据的任意文字。",
    "strength_model": "U-Net 部分的系数。",
    "strength_clip": "文本编码器部分的系数。",
    "prompts": "每行一条，占网格一行。",
    "negative_prompt": "用于所有行。",
    "presets": "每行一个，占网格一列：预设名、17 或 26 个值的向量（SDXL：12 或 20），或范围。",
    "chosen": "输出的 MODEL 与 CLIP 的权重，即最后一列。滑块写入此处。",
    "preview_seed": "第一行的种子，其后每行加 1；权重中的 R 和 U 也由它抽取。",
    "steps": "采样步数。",
    "cfg": "遵循提示词的严格程度。",
    "sampler_name": "与 KSampler 相同。",
    "scheduler": "与 KSampler 相同。",
    "width": "像素；0 为模型自身尺寸。",
    "height": "像素；0 为模型自身尺寸。",
    "recipe": "位于 output/lora_loop/recipes 或 ComfyUI 的 input 文件夹下。",
    "training": "按 R 刷新列表。",
    "samples": "测量所用的图片数。",
    "language": "图表上文字的语言。",
    "axes": "来自 GridAxes：以任意坐标轴代替预设。",
    "x_axis": "沿此轴改变什么。",
    "x": "条目：数值、种子、层以逗号分隔；权重按行或 | 分隔；提示词与 LoRA 文件按行。",
    "y_axis": "沿此轴改变什么。",
    "y": "条目，说明同 X。",
    "z_axis": "沿此轴改变什么。",
    "z": "条目，说明同 X。",
    "value": "没有数值轴时，层轴所用的数值。",
    "compare": "同时显示每格与底模的差异。",
    "mask": "白色为要关注的部位，例如脸。",
    "keep_outside": "遮罩之外至少保留改变的百分之几。",
    "keep_inside": "遮罩之内至多保留改变的百分之几。",
    "seeds": "每条提示词用几张图搜索；再用同样多的其他种子证明。",
    "rank": "各层的秩的上限；合并时 0 表示并排，完全精确。",
    "keep_percent": "每层保留其改变（范数）的百分之几；100 即秩所允许的全部。",
    "checkpoint": "来自 ComfyUI 的底模文件夹；原文件不变。",
    "tuned": "LoRA 应画出其画面的底模。",
    "base": "LoRA 将用于其上的底模。",
    "strength": "此 LoRA 的系数。",
    "dialect": "供哪个程序使用。",
    **{f"lora_{n}": "来自 TrainLoRA 或 LoadLoRAForTest。" for n in range(1, 5)},
    **{f"strength_{n}": "此 LoRA 的系数。" for n in range(1, 5)},
    **{
        f"block_weights_{n}": "预设名（如 NOFACE）、向量，或范围（如 IN04-IN08=0.5）。"
        for n in range(1, 5)
    },
}

OUTPUTS = {
    "dataset": "数据集",
    "sheet": "一览图",
    "report": "报告",
    "lora": "LoRA",
    "model": "模型",
    "clip": "CLIP",
    "loss plot": "损失曲线",
    "path": "路径",
    "grid": "网格图",
    "vector": "向量",
    "metadata": "元数据",
    "options": "选项",
    "chart": "图表",
    "axes": "坐标轴",
    "table": "表格",
    "block_weights": "分层权重",
    "tag": "标签",
}

SAID = {
    "title": Text("Block weights of {lora}", "{lora} 的分层权重"),
    "steps": Text("{steps} steps", "{steps} 步"),
    "size": Text("{width}x{height} pixels", "{width}x{height} 像素"),
    "strength": Text("strength {model:g} / {clip:g}", "强度 {model:g} / {clip:g}"),
    "left out": Text(
        "left out: {names}. These presets are not defined for {family}, whose blocks for the face "
        "nobody has agreed on; AnalyzeBlocks measures what each of them does",
        "未绘制：{names}。{family} 没有公认的脸部层，这些预设未定义；可用 AnalyzeBlocks 测量各层的"
        "作用",
    ),
}


def said(name: str, language: Language, **facts: object) -> str:
    """One of these texts."""
    return getattr(SAID[name], language).format(**facts)
