"""Made-up result archives of tradefed, Android's test harness: `test_result.xml` and its companions in a tar.xz."""

import dataclasses
import io
import tarfile
from xml.sax.saxutils import escape, quoteattr


@dataclasses.dataclass
class Test:
    name: str
    result: str = "pass"  # pass, fail, IGNORED, ASSUMPTION_FAILURE
    trace: str | None = None


def result_xml(modules):
    """`test_result.xml` of `{(module, abi): {test case: [Test]}}`."""
    text = io.StringIO()
    text.write("<?xml version='1.0' encoding='UTF-8' standalone='no' ?>\n")
    text.write('<?xml-stylesheet type="text/xsl" href="compatibility_result.xsl"?>\n')
    text.write('<Result start="1" end="2" suite_name="CTS" suite_version="14" report_version="5.0">\n')
    text.write('  <Build build_id="made-up" />\n')
    for (module, abi), cases in modules.items():
        abi_attribute = f" abi={quoteattr(abi)}" if abi else ""
        text.write(f'  <Module name={quoteattr(module)}{abi_attribute} runtime="10" done="true">\n')
        for case, tests in cases.items():
            text.write(f"    <TestCase name={quoteattr(case)}>\n")
            for test in tests:
                write_test(text, test)
            text.write("    </TestCase>\n")
        text.write("  </Module>\n")
    text.write("</Result>\n")
    return text.getvalue().encode()


def generated(count):
    """`test_result.xml` of about that many tests in a hundred modules, one of 22 failed."""
    modules, per_case, cases = 100, 22, max(1, count // 2200)
    trace = "java.lang.AssertionError: made up\n\tat com.example.Test.one(Test.java:1)"

    def test(number):
        return Test(f"test{number}", "fail", trace) if number == 21 else Test(f"test{number}")

    return result_xml(
        {
            (f"CtsModule{module}", "arm64-v8a"): {
                f"com.example.module{module}.Case{case}": [test(number) for number in range(per_case)] for case in range(cases)
            }
            for module in range(modules)
        }
    )


def write_test(text, test):
    start = f'      <Test result="{test.result}" name={quoteattr(test.name)}'
    if test.trace is None:
        text.write(start + " />\n")
        return
    first = test.trace.splitlines()[0]
    text.write(
        f"{start}>\n        <Failure message={quoteattr(first)}>\n"
        f"          <StackTrace>{escape(test.trace)}</StackTrace>\n        </Failure>\n      </Test>\n"
    )


def archive(xml, folder="android-cts/results/2026.03.01_10.00.00", extra=True, logcat=b"03-01 10:00:00 I made up\n"):
    """The tar.xz with that XML; with `extra` also the style sheets, picture and logs that SQUAD keeps."""
    files = {f"{folder}/test_result.xml": xml}
    if extra:
        files |= {
            f"{folder}/compatibility_result.xsl": b'<xsl><link href="compatibility_result.css"/><img src="logo.png"/></xsl>\n',
            f"{folder}/compatibility_result.css": b"body { margin: 0 }\n",
            f"{folder}/logo.png": b"not a real picture",
            "tradefed-stdout.txt": b"all done\n",
            "tradefed-logcat.txt": logcat,
        }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz", preset=0) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def definition_actions(name="cts-lkft", results_format="aggregated"):
    """The actions of a LAVA job that runs tradefed."""
    return [
        {
            "test": {
                "definitions": [
                    {
                        "repository": "https://example.org/test-definitions.git",
                        "from": "git",
                        "name": name,
                        "path": "automated/android/noninteractive-tradefed/tradefed.yaml",
                        "params": {"RESULTS_FORMAT": results_format},
                    }
                ]
            }
        }
    ]
