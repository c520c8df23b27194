"""A worker with what stands around a language model: it takes pages apart and counts words."""

import html
import re

import ringmaster as rm


@rm.action("extract", idempotent=True)
def extract(request):
    """``{"html": "…"}`` becomes ``{"title", "text"}``."""
    page = request.body["html"]
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.S | re.I)
    page = re.sub(r"<(script|style|title)\b.*?</\1>", " ", page, flags=re.S | re.I)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    return {"title": html.unescape(title[1]).strip() if title else "", "text": " ".join(text.split())}


@rm.action("statistics", idempotent=True)
def statistics(request):
    """``{"text": "…"}`` becomes ``{"words", "longest"}``."""
    words = re.findall(r"\w+", request.body["text"])
    return {"words": len(words), "longest": max(words, key=len, default="")}


rm.serve()
