"""Runs state machines on moto or on MiniStack: reads cases from stdin, prints how each execution ended.

    state_machines.py moto|ministack PORT   <  {"cases": [{"name", "definition", "input", "functions", "queues", "mocks"}]}

Functions are real ones as far as the engine is concerned; what they answer, call by call, is in the case: by the name of the
function or queue, or in `mocks` by the member `step` of what they are given. moto's backend asks `Answers` directly,
MiniStack's functions ask it over HTTP. A queue's messages are answered with their task token.
"""

import base64, ctypes, io, json, os, re, subprocess, sys, threading, time, urllib.error, urllib.request, zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENGINE, PORT = sys.argv[1], int(sys.argv[2])
LIMIT = 40
# Dies with whoever started it, and so does what it starts.
die_with_parent = lambda: ctypes.CDLL(None).prctl(1, 9)
die_with_parent()
# A runtime of our own: only then is the type of an error what the case says.
BOOTSTRAP = """#!%s
import json, os, urllib.request
def ask(url, body=None):
    with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:
        return answer.headers, answer.read()
runtime = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
while True:
    headers, event = ask(runtime + "next")
    request = runtime + headers["Lambda-Runtime-Aws-Request-Id"]
    _, answer = ask("http://127.0.0.1:%d/" + os.environ["AWS_LAMBDA_FUNCTION_NAME"], event)
    answer = json.loads(answer)
    if "Throw" in answer:
        thrown = answer["Throw"]
        error = {"errorMessage": thrown.get("Cause", ""), "errorType": thrown["Error"]}
        ask(request + "/error", json.dumps(error).encode())
    else:
        ask(request + "/response", json.dumps(answer["Return"]).encode())
"""


class Answers:
    """The last answer of a list is also that to every further call."""

    def __init__(self):
        self.lists, self.calls, self.lock = {}, {}, threading.Lock()

    def add(self, name, answers):
        self.lists[name] = answers if isinstance(answers, list) else [answers]

    def next(self, name, event):
        with self.lock:
            if name not in self.lists:
                # Names are `case-NUMBER-FUNCTION`.
                name = "-".join(name.split("-")[:2] + [event["step"]])
            call = self.calls.get(name, 0)
            self.calls[name] = call + 1
            answers = self.lists[name]
            answer = answers[min(call, len(answers) - 1)]
        time.sleep(answer.get("Delay", 0))
        return answer


answers = Answers()


class Asked(BaseHTTPRequestHandler):
    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(answers.next(self.path[1:], event)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def request(service, path, body, target=None, version="1.0"):
    scope = f"test/20260101/us-east-1/{service}/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        "Content-Type": f"application/x-amz-json-{version}",
        "X-Amz-Date": "20260101T000000Z",
    }
    if target:
        headers["X-Amz-Target"] = target
    sent = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(sent, timeout=LIMIT) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{target or path}: {error.code} {error.read().decode(errors='replace')[:2000]}")


def states(action, **body):
    return request("states", "/", body, f"AWSStepFunctions.{action}")


def queues(action, **body):
    return request("sqs", "/", body, f"AmazonSQS.{action}")


def start_moto():
    os.environ["MOTO_PORT"] = str(PORT)
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")
    from moto.awslambda import models
    from moto.server import ThreadedMotoServer

    def invoke(self, function_name, qualifier, body, headers, response_headers):
        answer = answers.next(function_name.rsplit(":", 1)[-1], json.loads(body or "{}"))
        if "Throw" in answer:
            response_headers["x-amz-function-error"] = "Unhandled"
            error = {"errorMessage": answer["Throw"].get("Cause", ""), "errorType": answer["Throw"]["Error"]}
            return json.dumps(error).encode()
        return json.dumps(answer["Return"]).encode()

    models.LambdaBackend.invoke = invoke
    ThreadedMotoServer(ip_address="127.0.0.1", port=PORT, verbose=False).start()
    ready("/moto-api/")
    config = {"stepfunctions": {"execute_state_machine": True}}
    request("moto", "/moto-api/config", config)


def start_ministack():
    folder = os.path.dirname(sys.executable)
    environment = dict(os.environ, BIND_HOST="127.0.0.1", GATEWAY_PORT=str(PORT), LOG_LEVEL="ERROR")
    process = subprocess.Popen([os.path.join(folder, "ministack")], env=environment, stdout=sys.stderr, stderr=sys.stderr, preexec_fn=die_with_parent)
    ready("/_ministack/health")
    return process


def ready(path):
    until = time.monotonic() + LIMIT
    while True:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=2).read()
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def make_function(name, listener):
    if ENGINE == "moto":
        return  # Its backend was taught to answer for every name.
    answer = io.BytesIO()
    with zipfile.ZipFile(answer, "w") as archive:
        bootstrap = zipfile.ZipInfo("bootstrap")
        bootstrap.external_attr = 0o755 << 16
        archive.writestr(bootstrap, BOOTSTRAP % (sys.executable, listener))
    body = {
        "FunctionName": name,
        "Runtime": "provided.al2023",
        "Role": "arn:aws:iam::000000000000:role/test",
        "Handler": "bootstrap",
        "Timeout": 30,
        "Code": {"ZipFile": base64.b64encode(answer.getvalue()).decode()},
    }
    request("lambda", "/2015-03-31/functions", body)


def work(url, name, stop):
    """A worker: takes messages, answers each with the task token it carries."""
    while not stop.is_set():
        for message in queues("ReceiveMessage", QueueUrl=url, WaitTimeSeconds=1).get("Messages", []):
            body = json.loads(message["Body"])
            token, answer = body["TaskToken"], answers.next(name, body)
            queues("DeleteMessage", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            if "Throw" in answer:
                thrown = answer["Throw"]
                states("SendTaskFailure", taskToken=token, error=thrown["Error"], cause=thrown.get("Cause", ""))
            else:
                states("SendTaskSuccess", taskToken=token, output=json.dumps(answer["Return"]))


def run(number, case, listener):
    stop, name = threading.Event(), f"case-{number}"
    try:
        # Each case has its own functions, so that calls are counted for it alone.
        text, given = json.dumps(case["definition"]), json.dumps(case.get("input", {}))
        for step, list_of_answers in case.get("mocks", {}).items():
            answers.add(f"{name}-{step}", list_of_answers)
        for function, list_of_answers in case.get("functions", {}).items():
            answers.add(f"{name}-{function}", list_of_answers)
        for function in set(re.findall(r'"FunctionName": "([^"]+)"', text)):
            make_function(f"{name}-{function}", listener)
            text = text.replace(f'"FunctionName": "{function}"', f'"FunctionName": "{name}-{function}"')
        for queue, list_of_answers in case.get("queues", {}).items():
            if list_of_answers is not None:
                answers.add(f"{name}-{queue}", list_of_answers)
            url = queues("CreateQueue", QueueName=f"{name}-{queue}")["QueueUrl"]
            given = given.replace(f"QUEUE:{queue}", url)
            threading.Thread(target=work, args=(url, f"{name}-{queue}", stop), daemon=True).start()
        role = "arn:aws:iam::123456789012:role/test"
        machine = states("CreateStateMachine", name=name, definition=text, roleArn=role)["stateMachineArn"]
        execution = states("StartExecution", stateMachineArn=machine, name="run", input=given)["executionArn"]
        until = time.monotonic() + LIMIT
        while True:
            seen = states("DescribeExecution", executionArn=execution)
            if seen["status"] != "RUNNING":
                break
            if time.monotonic() > until:
                return {"name": case["name"], "status": "NEVER_ENDED"}
            time.sleep(0.05)
        ended = {"name": case["name"], "status": seen["status"], "error": seen.get("error"), "cause": seen.get("cause")}
        if seen["status"] == "SUCCEEDED":
            try:
                ended["output"] = json.loads(seen["output"])
            except ValueError:
                ended["output"] = {"not JSON": seen["output"]}
        return ended
    except Exception as error:  # What an engine does not accept is its answer to the case.
        return {"name": case["name"], "status": "REFUSED", "cause": str(error)}
    finally:
        stop.set()


def main():
    cases = json.load(sys.stdin)["cases"]
    process = start_moto() if ENGINE == "moto" else start_ministack()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(run, number, case, listener.server_port) for number, case in enumerate(cases)]
            for job in jobs:
                print(json.dumps(job.result()), flush=True)
    finally:
        if process:
            # It ends its functions; a kill would leave them behind for a moment.
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
    os._exit(0)


main()
