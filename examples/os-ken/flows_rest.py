#!/usr/bin/osken-manager
# SPDX-License-Identifier: MIT
"""The part of ryu's ofctl_rest that FlexiMigrate's driver "rest" asks for, for Debian's os-ken, which has no ofctl_rest and no web framework.
OpenFlow 1.4, or with OPENFLOW=1.3 in the environment 1.3, and that version's dialect of JSON.

    REST_LISTEN=127.0.0.1:8080 osken-manager --ofp-listen-host 127.0.0.1 --ofp-tcp-listen-port 6653 flows_rest.py

    GET  /stats/switches                [1, 2]
    GET  /stats/desc/<dpid>             {"1": {…}}       {} when the switch does not answer within a second
    GET  /stats/flow/<dpid>             {"1": [{…}, …]}  [] likewise
    POST /stats/flowentry/<command>     add, modify, modify_strict, delete, delete_strict; unlike ofctl_rest it waits for the switch: 422 when it refuses, 504 when it does not answer
"""
import json
import os

from os_ken.app.ofctl import api
from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib import hub, ofctl_v1_3, ofctl_v1_4
from os_ken.ofproto import ofproto_v1_3, ofproto_v1_4

OFCTL, OFPROTO = (ofctl_v1_3, ofproto_v1_3) if os.environ.get("OPENFLOW") == "1.3" else (ofctl_v1_4, ofproto_v1_4)
PATIENCE_S = 2
BODY_MAX = 1 << 20


class FlowsRest(app_manager.OSKenApp):
    OFP_VERSIONS = [OFPROTO.OFP_VERSION]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.switches, self.waiters, self.errors = {}, {}, []
        host, _, port = os.environ.get("REST_LISTEN", "127.0.0.1:8080").rpartition(":")
        hub.spawn(hub.WSGIServer((host.strip("[]"), int(port)), self.serve).serve_forever)

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def on_state(self, event):
        if event.state == MAIN_DISPATCHER:
            self.switches[event.datapath.id] = event.datapath
        elif self.switches.get(event.datapath.id) is event.datapath:
            del self.switches[event.datapath.id]

    @set_ev_cls([ofp_event.EventOFPFlowStatsReply, ofp_event.EventOFPDescStatsReply], MAIN_DISPATCHER)
    def on_reply(self, event):
        message = event.msg
        lock, messages = self.waiters.get(message.datapath.id, {}).get(message.xid, (None, None))
        if lock is not None:
            messages.append(message)
            if not message.flags & OFPROTO.OFPMPF_REPLY_MORE:
                del self.waiters[message.datapath.id][message.xid]
                lock.set()

    @set_ev_cls(ofp_event.EventOFPErrorMsg, MAIN_DISPATCHER)
    def on_error(self, event):
        self.errors.append((event.msg.datapath.id, event.msg.type, event.msg.code))
        del self.errors[:-100]

    def change(self, switch, flow, command):
        self.errors = [error for error in self.errors if error[0] != switch.id]
        OFCTL.mod_flow_entry(switch, flow, command)
        with hub.Timeout(PATIENCE_S, False):
            api.send_msg(self, switch.ofproto_parser.OFPBarrierRequest(switch), reply_cls=switch.ofproto_parser.OFPBarrierReply)
            refused = [error[1:] for error in self.errors if error[0] == switch.id]
            return ("422 Unprocessable Entity", {"error": f"the switch refuses: type {refused[0][0]}, code {refused[0][1]}"}) if refused else ("200 OK", None)
        return "504 Gateway Timeout", {"error": "the switch does not answer"}

    def answer(self, method, path, body):
        commands = {name: getattr(OFPROTO, f"OFPFC_{name.upper()}") for name in ("add", "modify", "modify_strict", "delete", "delete_strict")}
        questions = {"flow": OFCTL.get_flow_stats, "desc": OFCTL.get_desc_stats}
        if method == "GET" and path == ["stats", "switches"]:
            return "200 OK", sorted(self.switches)
        if method == "GET" and len(path) == 3 and path[0] == "stats" and path[1] in questions and path[2].isdecimal() and int(path[2]) in self.switches:
            return "200 OK", questions[path[1]](self.switches[int(path[2])], self.waiters)
        if method == "POST" and len(path) == 3 and path[:2] == ["stats", "flowentry"] and path[2] in commands:
            flow = json.loads(body)
            if flow["dpid"] in self.switches:
                return self.change(self.switches[flow["dpid"]], flow, commands[path[2]])
        return "404 Not Found", None

    def serve(self, environ, start_response):
        try:
            body = environ["wsgi.input"].read(min(int(environ.get("CONTENT_LENGTH") or 0), BODY_MAX))
            status, answer = self.answer(environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"), body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            status, answer = "400 Bad Request", {"error": str(error)}
        start_response(status, [("Content-Type", "application/json")])
        return [b"" if answer is None else json.dumps(answer).encode()]
