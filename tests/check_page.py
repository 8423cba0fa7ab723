"""Holds an HTML page to what a page that is filed has to be: well-formed, and standing alone.

Usage: check_page.py PAGE. Prints what is wrong, a line each; exits 1 where something is.
Needs nothing but Python.
"""
import sys
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "col", "base"}
# What may stand directly in what, where HTML is strict about it.
PARENTS = {
    "tr": {"table", "tbody", "thead"}, "td": {"tr"}, "th": {"tr"}, "li": {"ul", "ol"},
    "title": {"head"}, "style": {"head"}, "meta": {"head"}, "head": {"html"}, "body": {"html"},
}
# What a paragraph cannot hold: the parser would end it.
BLOCKS = {"p", "table", "ul", "ol", "div", "section", "article", "header", "main", "h1", "h2", "h3"}
LOADS = {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "base", "form"}


class Page(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.seen, self.ids = [], [], [], set()

    def bad(self, what):
        self.wrong.append("line %d: %s" % (self.getpos()[0], what))

    def handle_decl(self, decl):
        if decl != "DOCTYPE html" or self.seen:
            self.bad("declaration %r" % decl)

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        if len(set(names)) != len(names):
            self.bad("an attribute of <%s> twice" % tag)
        for name, value in attributes:
            if name.startswith("on") or name in ("src", "href", "action"):
                self.bad("<%s %s> reaches outside of the page" % (tag, name))
            if name == "id" and (value in self.ids or self.ids.add(value)):
                self.bad("id %r twice" % value)
        if tag in LOADS:
            self.bad("<%s> in a page that stands alone" % tag)
        parent = self.open[-1] if self.open else None
        if tag in PARENTS and parent not in PARENTS[tag]:
            self.bad("<%s> in <%s>" % (tag, parent))
        if tag in BLOCKS and "p" in self.open:
            self.bad("<%s> in a paragraph" % tag)
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad("</%s> closes nothing" % tag)


text = open(sys.argv[1], encoding="utf-8").read()
page = Page()
page.feed(text)
page.close()
if page.open:
    page.wrong.append("not closed: %s" % ", ".join(page.open))
if not text.startswith("<!DOCTYPE html>\n<html lang="):
    page.wrong.append("no doctype or language")
for tag in ("html", "head", "title", "body", "h1", "main"):
    if page.seen.count(tag) != 1:
        page.wrong.append("<%s> %d times" % (tag, page.seen.count(tag)))
print("\n".join(page.wrong))
sys.exit(bool(page.wrong))
