"""The page in one piece, served or with a module inside, each with a policy that allows its own code alone."""

import base64
import hashlib
import json
import re

from mnist_runtime.page import app_files, module_of, offline, served

MODULE = b'export const about = { checkpoint: "abc" };\n// any text\n'


def policy_of(text):
    return dict(each.strip().split(" ", 1) for each in text.split(";"))


def sources(page, tag):
    texts = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def check_policy(policy, page, **other):
    """Check that a policy allows the page's own style, script, icon and app files, and `other` sources."""
    parts = policy_of(policy)
    assert parts.pop("img-src") == "data:"
    assert parts.pop("style-src") == sources(page, "style")
    assert parts.pop("script-src") == sources(page, "script")
    assert parts.pop("worker-src") == parts.pop("manifest-src") == "'self'"
    forbidden = dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    assert parts == {**forbidden, **{name.replace("_", "-"): sources for name, sources in other.items()}}


def test_the_served_page_requests_its_server_only():
    page, policy = served()
    check_policy(policy, page.decode(), connect_src="'self'", frame_ancestors="'none'")
    assert module_of(page) == b""


def test_the_offline_page_requests_nothing_and_contains_its_policy():
    page = offline(MODULE).decode()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', page)
    check_policy(policy, page, connect_src="'none'")
    assert page.index("http-equiv") < page.index("<style>") < page.index("<script")


def test_the_module_in_the_offline_page_is_unchanged():
    assert module_of(offline(MODULE)) == MODULE
    assert offline(MODULE) == offline(MODULE)


def test_both_pages_have_the_same_elements_style_and_script():
    plain, inside = served()[0].decode(), offline(MODULE).decode()
    inside = re.sub(r'<script type="module" id="network">.*?</script>\n', "", inside, flags=re.DOTALL)
    assert re.sub(r"<meta http-equiv[^>]*>\n", "", inside) == plain


def test_no_handler_and_no_style_is_inline_and_no_other_host_is_named():
    page = offline(MODULE).decode()
    assert not re.findall(r"<[^>]* (?:on[a-z]+|style)=", page)
    assert not re.findall(r"<link(?![^>]*href=\"(?:data:|mnist\.webmanifest))|<script[^>]*\ssrc|@import|url\(", page)
    assert set(re.findall(r"https?://[^\s'\"]+", page)) == {"http://www.w3.org/2000/svg"}  # SVG's name, not requested


def test_the_manifest_of_the_app_has_the_pages_icon_title_ground_and_address():
    page, manifest = served()[0].decode(), json.loads(app_files("digits.html")["mnist.webmanifest"])
    (icon,) = manifest["icons"]
    assert f'<link rel="icon" href="{icon["src"]}">' in page
    assert f"<title>{manifest['name']}</title>" in page
    assert f'name="description" content="{manifest["description"]}"' in page
    assert f"--ground: {manifest['background_color']};" in page
    assert manifest["start_url"] == "digits.html"  # without one, Chromium does not install the app
